//! How sound becomes the features that a model takes: parameters that travel in the blob.

use core::fmt;

use super::layout::FrontEndRecord;

/// Parameters of the features that a model of sound takes. [`frontend`](crate::frontend) computes
/// them, with the crate's feature `frontend`.
///
/// A clip of [`samples`](Self::samples) is cut into windows that overlap; each window gives one row
/// of the input, from the first to the last that lies in the clip as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[cfg_attr(feature = "link", derive(serde::Serialize, serde::Deserialize))]
pub struct FrontEnd {
    /// What a row holds.
    pub kind: FeatureKind,
    /// Samples per second.
    pub sample_rate: u32,
    /// Samples of a clip.
    pub samples: u32,
    /// Samples of a window.
    pub window: u16,
    /// Samples from the start of a window to the start of the next.
    pub hop: u16,
    /// Length of the Fourier transform, one of [`FFT_LENGTHS`](Self::FFT_LENGTHS): the window is
    /// filled up with zeros.
    pub fft: u16,
    /// Bands of the mel spectrum.
    pub mel_bins: u16,
    /// Lower edge of the lowest band in Hz.
    pub low_hz: u16,
    /// Upper edge of the highest band in Hz, at most half the sample rate.
    pub high_hz: u16,
}

/// What the rows of features hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[cfg_attr(
    feature = "link",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
pub enum FeatureKind {
    /// The logarithm of the energy in each mel band.
    LogMel,
    /// Mel-frequency cepstral coefficients: the cosine transform of the log-mel spectrum.
    Mfcc {
        /// Coefficients kept, from the zeroth on.
        coefficients: u16,
    },
}

impl FrontEnd {
    /// Lengths of the Fourier transform that there are.
    pub const FFT_LENGTHS: [u16; 4] = [128, 256, 512, 1024];
    /// Greatest number of mel bands.
    pub const MEL_BINS_MAX: u16 = 128;

    /// Checks that the parameters fit together.
    ///
    /// # Errors
    ///
    /// Names the parameter that does not.
    pub const fn check(&self) -> Result<(), FrontEndProblem> {
        use FrontEndProblem as Problem;
        let [shortest, .., longest] = Self::FFT_LENGTHS;
        let fft = self.fft;
        if !fft.is_power_of_two() || fft < shortest || fft > longest {
            return Err(Problem::Fft(fft));
        }
        if self.window < 2 || self.window > fft {
            return Err(Problem::Window { window: self.window, fft });
        }
        if self.hop == 0 || self.hop > self.window {
            return Err(Problem::Hop { hop: self.hop, window: self.window });
        }
        if self.samples < self.window as u32 || self.rows() > u16::MAX as usize {
            return Err(Problem::Samples { samples: self.samples, window: self.window });
        }
        if self.mel_bins == 0 || self.mel_bins > Self::MEL_BINS_MAX {
            return Err(Problem::MelBins(self.mel_bins));
        }
        if self.low_hz >= self.high_hz || self.high_hz as u32 > self.sample_rate / 2 {
            let (low_hz, high_hz, sample_rate) = (self.low_hz, self.high_hz, self.sample_rate);
            return Err(Problem::Frequencies { low_hz, high_hz, sample_rate });
        }
        match self.kind {
            FeatureKind::Mfcc { coefficients }
                if coefficients == 0 || coefficients > self.mel_bins =>
            {
                Err(Problem::Coefficients { coefficients, mel_bins: self.mel_bins })
            }
            _ => Ok(()),
        }
    }

    /// Rows of features of a clip.
    pub const fn rows(&self) -> usize {
        let behind_first = (self.samples as usize).saturating_sub(self.window as usize);
        match behind_first.checked_div(self.hop as usize) {
            Some(hops) => hops.saturating_add(1),
            None => 0,
        }
    }

    /// Values of a row.
    pub const fn row_len(&self) -> usize {
        match self.kind {
            FeatureKind::LogMel => self.mel_bins as usize,
            FeatureKind::Mfcc { coefficients } => coefficients as usize,
        }
    }

    /// The parameters as a blob holds them.
    pub fn encode(&self) -> FrontEndRecord {
        let (kind, coefficients) = match self.kind {
            FeatureKind::LogMel => (0u16, 0),
            FeatureKind::Mfcc { coefficients } => (1, coefficients),
        };
        FrontEndRecord {
            kind: kind.into(),
            coefficients: coefficients.into(),
            sample_rate: self.sample_rate.into(),
            samples: self.samples.into(),
            window: self.window.into(),
            hop: self.hop.into(),
            fft: self.fft.into(),
            mel_bins: self.mel_bins.into(),
            low_hz: self.low_hz.into(),
            high_hz: self.high_hz.into(),
        }
    }

    /// The parameters that a blob holds, checked.
    pub(super) fn decode(record: &FrontEndRecord) -> Result<Self, FrontEndProblem> {
        let coefficients = record.coefficients.get();
        let kind = match record.kind.get() {
            0 if coefficients == 0 => FeatureKind::LogMel,
            1 => FeatureKind::Mfcc { coefficients },
            kind => return Err(FrontEndProblem::Kind(kind)),
        };
        let front_end = Self {
            kind,
            sample_rate: record.sample_rate.get(),
            samples: record.samples.get(),
            window: record.window.get(),
            hop: record.hop.get(),
            fft: record.fft.get(),
            mel_bins: record.mel_bins.get(),
            low_hz: record.low_hz.get(),
            high_hz: record.high_hz.get(),
        };
        front_end.check().map(|()| front_end)
    }
}

impl fmt::Display for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FeatureKind::LogMel => write!(f, "log-mel, {} bands", self.mel_bins)?,
            FeatureKind::Mfcc { coefficients } => {
                write!(f, "MFCC, {coefficients} of {} bands", self.mel_bins)?;
            }
        }
        write!(
            f,
            " from {} to {} Hz; windows of {} samples every {}, FFT of {}; clips of {} samples at {} Hz",
            self.low_hz,
            self.high_hz,
            self.window,
            self.hop,
            self.fft,
            self.samples,
            self.sample_rate
        )
    }
}

/// Why parameters of a [`FrontEnd`] are impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FrontEndProblem {
    /// The section has another size than a [`FrontEndRecord`].
    Size,
    /// There are no features with this number, or with coefficients where there are none.
    Kind(u16),
    /// No Fourier transform has this length.
    Fft(u16),
    /// The window is empty or longer than the Fourier transform.
    Window {
        /// Samples of the window.
        window: u16,
        /// Length of the transform.
        fft: u16,
    },
    /// The hop is 0 or longer than the window.
    Hop {
        /// Samples of the hop.
        hop: u16,
        /// Samples of the window.
        window: u16,
    },
    /// The clip is shorter than a window, or gives more than 65,535 rows.
    Samples {
        /// Samples of the clip.
        samples: u32,
        /// Samples of the window.
        window: u16,
    },
    /// The number of mel bands is 0 or above [`FrontEnd::MEL_BINS_MAX`].
    MelBins(u16),
    /// The number of coefficients is 0 or above that of the mel bands.
    Coefficients {
        /// Coefficients.
        coefficients: u16,
        /// Mel bands.
        mel_bins: u16,
    },
    /// The lower edge is not below the upper, or that is above half the sample rate.
    Frequencies {
        /// Lower edge.
        low_hz: u16,
        /// Upper edge.
        high_hz: u16,
        /// Samples per second.
        sample_rate: u32,
    },
    /// The features of a clip are not as many, or not arranged, as the model's input.
    Shape,
    /// The blob does not say how features become inputs.
    Normalisation,
}

impl fmt::Display for FrontEndProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Size => f.write_str("the section has a wrong size"),
            Self::Kind(kind) => write!(f, "no features have the number {kind}"),
            Self::Fft(fft) => {
                write!(
                    f,
                    "expected a Fourier transform of length 128, 256, 512 or 1024, found {fft}"
                )
            }
            Self::Window { window, fft } => {
                write!(f, "expected a window of 2 to {fft} samples, found {window}")
            }
            Self::Hop { hop, window } => {
                write!(f, "expected a hop of 1 to {window} samples, found {hop}")
            }
            Self::Samples { samples, window } => write!(
                f,
                "expected a clip of at least one window of {window} samples and at most 65535 windows, \
                 found {samples} samples"
            ),
            Self::MelBins(bins) => {
                write!(f, "expected 1 to {} mel bands, found {bins}", FrontEnd::MEL_BINS_MAX)
            }
            Self::Coefficients { coefficients, mel_bins } => {
                write!(f, "expected 1 to {mel_bins} coefficients, found {coefficients}")
            }
            Self::Frequencies { low_hz, high_hz, sample_rate } => write!(
                f,
                "expected edges of the mel bands from low to high, at most half of {sample_rate} Hz, \
                 found {low_hz} and {high_hz} Hz"
            ),
            Self::Shape => f.write_str("the features of a clip do not fill the model's input"),
            Self::Normalisation => f.write_str("the model does not say how features become inputs"),
        }
    }
}

impl core::error::Error for FrontEndProblem {}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONT_END: FrontEnd = FrontEnd {
        kind: FeatureKind::Mfcc { coefficients: 10 },
        sample_rate: 16_000,
        samples: 16_000,
        window: 480,
        hop: 320,
        fft: 512,
        mel_bins: 40,
        low_hz: 20,
        high_hz: 4000,
    };
    const _: () = assert!(FRONT_END.check().is_ok());

    #[test]
    fn parameters_survive_the_blob() {
        assert_eq!((FRONT_END.rows(), FRONT_END.row_len()), (49, 10));
        let log_mel = FrontEnd { kind: FeatureKind::LogMel, window: 512, ..FRONT_END };
        for front_end in [FRONT_END, log_mel] {
            assert_eq!(FrontEnd::decode(&front_end.encode()), Ok(front_end));
        }
        let strange = FrontEndRecord { kind: 2.into(), ..FRONT_END.encode() };
        assert_eq!(FrontEnd::decode(&strange), Err(FrontEndProblem::Kind(2)));
    }

    #[test]
    fn impossible_parameters_are_named() {
        let wrong = [
            FrontEnd { fft: 500, ..FRONT_END },
            FrontEnd { fft: 2048, ..FRONT_END },
            FrontEnd { window: 513, ..FRONT_END },
            FrontEnd { window: 1, hop: 1, ..FRONT_END },
            FrontEnd { hop: 0, ..FRONT_END },
            FrontEnd { hop: 481, ..FRONT_END },
            FrontEnd { samples: 479, ..FRONT_END },
            FrontEnd { samples: 65_535 * 320 + 480, ..FRONT_END },
            FrontEnd { mel_bins: 0, ..FRONT_END },
            FrontEnd { mel_bins: 129, ..FRONT_END },
            FrontEnd { kind: FeatureKind::Mfcc { coefficients: 0 }, ..FRONT_END },
            FrontEnd { kind: FeatureKind::Mfcc { coefficients: 41 }, ..FRONT_END },
            FrontEnd { low_hz: 4000, ..FRONT_END },
            FrontEnd { high_hz: 8001, ..FRONT_END },
            FrontEnd { sample_rate: 0, ..FRONT_END },
        ];
        for front_end in wrong {
            let problem = front_end.check().unwrap_err();
            assert_eq!(FrontEnd::decode(&front_end.encode()), Err(problem), "{front_end:?}");
        }
    }
}
