//! Features of sound: log-mel spectra and mel-frequency cepstral coefficients.
//!
//! The definitions are those of `tf.signal` in TensorFlow, which the reference keyword spotter of MLPerf
//! Tiny uses, with energies in the place of magnitudes:
//!
//! 1. A window of samples, as fractions of full scale, times a periodic Hann window, then zeros up to
//!    the length of the Fourier transform.
//! 2. `|X|^2` of each frequency above 0.
//! 3. Mel bands: `mel(f) = 1127 ln(1 + f / 700 Hz)` (O'Shaughnessy, "Speech Communication", 1987);
//!    triangles that are straight on the mel scale, each from the centre of the band below to the centre of
//!    the band above.
//! 4. `ln(energy + `[`ENERGY_FLOOR`]`)`.
//! 5. For cepstral coefficients the orthonormal type-II cosine transform, the zeroth coefficient scaled like
//!    the others (Davis and Mermelstein, IEEE Trans. ASSP 28(4), 1980).
//!
//! Everything is computed in `f32` with single roundings in a fixed order, and with `libm` in the place of
//! the platform's functions, so a host and a device with or without a floating-point unit get the same
//! bits, provided that a unit handles denormal numbers as IEEE 754 says, which is the state after reset.

use core::f32::consts::PI;
use core::fmt;

use microfft::{Complex32, real};

use crate::model::layout::ALIGNMENT;
use crate::model::{FeatureKind, FrontEnd, FrontEndProblem};

/// What is added to the energy of a mel band before its logarithm is taken: about the energy of the
/// rounding to 16 bits.
pub const ENERGY_FLOOR: f32 = 1e-6;

const FULL_SCALE: f32 = 32_768.0;

impl FrontEnd {
    /// Bytes of memory that an [`Extractor`] needs, a multiple of 4.
    pub const fn memory_len(&self) -> usize {
        let samples = (self.window as usize).next_multiple_of(2);
        self.floats() * size_of::<f32>() + samples * size_of::<i16>()
    }

    const fn floats(&self) -> usize {
        let mut floats = 0;
        let mut part = 0;
        let parts = self.parts();
        while part < parts.len() {
            floats += parts[part];
            part += 1;
        }
        floats
    }

    /// Values of half the Hann window, of the bins' places among the bands, of a period of the cosine
    /// transform, of the spectrum and of the bands.
    const fn parts(&self) -> [usize; 5] {
        let (fft, bands) = (self.fft as usize, self.mel_bins as usize);
        let cosines = match self.kind {
            FeatureKind::LogMel => 0,
            FeatureKind::Mfcc { .. } => 4 * bands,
        };
        [self.window as usize / 2 + 1, fft / 2 + 1, cosines, fft, bands]
    }
}

/// Computes features in memory of the caller: of a clip as a whole, or of samples as they come.
#[derive(Debug)]
pub struct Extractor<'w> {
    front_end: FrontEnd,
    /// Values `0..=window / 2` of the Hann window, which is symmetric, divided by full scale.
    hann: &'w mut [f32],
    /// For each bin of the spectrum the distance from the lower edge of the lowest band, in steps of half
    /// a band; negative where it belongs to none.
    places: &'w mut [f32],
    /// One period of the cosine of the transform, with its scale.
    cosines: &'w mut [f32],
    spectrum: &'w mut [f32],
    bands: &'w mut [f32],
    /// The samples of the next window.
    samples: &'w mut [i16],
    /// How many of them there are.
    filled: usize,
    /// Rows computed of this clip.
    rows: usize,
}

impl<'w> Extractor<'w> {
    /// Prepares `memory`, which may be longer than needed: an [`Arena`](crate::Arena) of
    /// [`FrontEnd::memory_len`].
    ///
    /// # Errors
    ///
    /// When the parameters are impossible, or the memory is too small or misaligned.
    pub fn new(front_end: FrontEnd, memory: &'w mut [i8]) -> Result<Self, FrontEndError> {
        front_end.check().map_err(FrontEndError::Parameters)?;
        let (expected, found) = (front_end.memory_len(), memory.len());
        let memory = memory.get_mut(..expected);
        let memory = memory.ok_or(FrontEndError::MemoryTooSmall { expected, found })?;
        let misaligned = FrontEndError::MemoryMisaligned;
        let bytes: &mut [u8] = zerocopy::transmute_mut!(memory);
        let (floats, bytes) =
            bytes.split_at_mut_checked(front_end.floats() * size_of::<f32>()).ok_or(misaligned)?;
        let mut rest =
            <[f32] as zerocopy::FromBytes>::mut_from_bytes(floats).map_err(|_| misaligned)?;
        let samples =
            <[i16] as zerocopy::FromBytes>::mut_from_bytes(bytes).map_err(|_| misaligned)?;
        let samples = samples.get_mut(..usize::from(front_end.window)).ok_or(misaligned)?;
        let parts = front_end.parts();
        let mut part = |index: usize| {
            let (part, behind) = core::mem::take(&mut rest).split_at_mut_checked(parts[index])?;
            rest = behind;
            Some(part)
        };
        let (Some(hann), Some(places), Some(cosines), Some(spectrum), Some(bands)) =
            (part(0), part(1), part(2), part(3), part(4))
        else {
            return Err(misaligned);
        };
        let (filled, rows) = (0, 0);
        let mut extractor =
            Self { front_end, hann, places, cosines, spectrum, bands, samples, filled, rows };
        extractor.fill_tables();
        Ok(extractor)
    }

    /// The parameters.
    pub fn front_end(&self) -> &FrontEnd {
        &self.front_end
    }

    fn fill_tables(&mut self) {
        let front_end = &self.front_end;
        let window = f32::from(front_end.window);
        for (n, value) in self.hann.iter_mut().enumerate() {
            *value = (0.5 - 0.5 * libm::cosf(2.0 * PI * n as f32 / window)) / FULL_SCALE;
        }
        let bands = f32::from(front_end.mel_bins);
        let low = mel(f32::from(front_end.low_hz));
        // A band reaches over two steps, so the last one ends one step behind as many as there are bands.
        let step = (mel(f32::from(front_end.high_hz)) - low) / (bands + 1.0);
        let hz_per_bin = front_end.sample_rate as f32 / f32::from(front_end.fft);
        for (bin, place) in self.places.iter_mut().enumerate() {
            let steps = (mel(bin as f32 * hz_per_bin) - low) / step;
            *place = if (0.0..bands + 1.0).contains(&steps) && bin > 0 { steps } else { -1.0 };
        }
        let scale = libm::sqrtf(2.0 / bands);
        for (n, value) in self.cosines.iter_mut().enumerate() {
            *value = scale * libm::cosf(PI * n as f32 / (2.0 * bands));
        }
    }

    /// Begins a new clip: forgets the samples that were pushed.
    pub fn begin(&mut self) {
        self.filled = 0;
        self.rows = 0;
    }

    /// Rows computed since the clip began.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the next samples of a clip, as many as there are, and calls `row` with the number and the
    /// features of each row that they complete. Samples behind the last row are ignored.
    pub fn push(&mut self, mut samples: &[i16], mut row: impl FnMut(usize, &[f32])) {
        let mut features = [0.0; FrontEnd::MEL_BINS_MAX as usize];
        let Some(features) = features.get_mut(..self.front_end.row_len()) else { return };
        while self.rows < self.front_end.rows() && !samples.is_empty() {
            let free = self.samples.get_mut(self.filled..).unwrap_or(&mut []);
            let count = free.len().min(samples.len());
            let (Some((now, later)), Some(free)) =
                (samples.split_at_checked(count), free.get_mut(..count))
            else {
                return;
            };
            free.copy_from_slice(now);
            samples = later;
            self.filled = self.filled.saturating_add(count);
            if self.filled == self.samples.len() {
                self.compute(features);
                row(self.rows, features);
                self.rows = self.rows.saturating_add(1);
                let hop = usize::from(self.front_end.hop).min(self.samples.len());
                self.samples.copy_within(hop.., 0);
                self.filled = self.filled.saturating_sub(hop);
            }
        }
    }

    /// The row of features of one window of samples. Ends the clip that was begun.
    ///
    /// # Errors
    ///
    /// When `samples` or `row` have another length than a window or a row.
    pub fn row(&mut self, samples: &[i16], row: &mut [f32]) -> Result<(), FrontEndError> {
        check_len(samples.len(), usize::from(self.front_end.window))?;
        check_len(row.len(), self.front_end.row_len())?;
        self.begin();
        for (slot, sample) in self.samples.iter_mut().zip(samples) {
            *slot = *sample;
        }
        self.compute(row);
        Ok(())
    }

    /// The features of a whole clip, row after row.
    ///
    /// # Errors
    ///
    /// When `samples` are another number than that of a clip, or `features` than its rows hold.
    pub fn clip(&mut self, samples: &[i16], features: &mut [f32]) -> Result<(), FrontEndError> {
        let row_len = self.front_end.row_len();
        check_len(samples.len(), self.front_end.samples as usize)?;
        check_len(features.len(), self.front_end.rows().saturating_mul(row_len))?;
        self.begin();
        let mut rows = features.chunks_mut(row_len.max(1));
        self.push(samples, |_, row| {
            for (slot, value) in rows.next().unwrap_or(&mut []).iter_mut().zip(row) {
                *slot = *value;
            }
        });
        Ok(())
    }

    /// Computes one row from the samples of a window.
    fn compute(&mut self, row: &mut [f32]) {
        self.spectrum.fill(0.0);
        let window = self.samples.len();
        for (n, (value, sample)) in self.spectrum.iter_mut().zip(&*self.samples).enumerate() {
            let hann = self.hann.get(n.min(window.saturating_sub(n))).copied().unwrap_or(0.0);
            *value = f32::from(*sample) * hann;
        }
        let spectrum = transform(self.spectrum);
        // The highest frequency stands where the imaginary part of the lowest, which is 0, would.
        let highest = spectrum.first().map_or(0.0, |bin| bin.im * bin.im);
        let energies = spectrum.iter().skip(1).map(|bin| bin.re * bin.re + bin.im * bin.im);
        let energies = energies.chain(core::iter::once(highest));

        self.bands.fill(0.0);
        for (&place, energy) in self.places.iter().skip(1).zip(energies) {
            if place < 0.0 {
                continue;
            }
            let above = place as usize;
            let share = place - above as f32;
            if let Some(band) = self.bands.get_mut(above) {
                *band += share * energy;
            }
            if let Some(band) = self.bands.get_mut(above.wrapping_sub(1)) {
                *band += (1.0 - share) * energy;
            }
        }
        for band in &mut *self.bands {
            *band = libm::logf(*band + ENERGY_FLOOR);
        }
        if self.cosines.is_empty() {
            for (value, band) in row.iter_mut().zip(&*self.bands) {
                *value = *band;
            }
            return;
        }
        let period = self.cosines.len();
        for (k, value) in row.iter_mut().enumerate() {
            // cos(pi k (2 m + 1) / (2 bands)), one band m after the other.
            let mut at = k;
            let mut sum = 0.0;
            for band in &*self.bands {
                sum += self.cosines.get(at).copied().unwrap_or(0.0) * *band;
                at = at.wrapping_add(k).wrapping_add(k);
                if at >= period {
                    at = at.wrapping_sub(period);
                }
            }
            *value = sum;
        }
    }
}

fn mel(hz: f32) -> f32 {
    1127.0 * libm::logf(1.0 + hz / 700.0)
}

/// The Fourier transform in place: frequency 0 up to the one below the highest.
fn transform(values: &mut [f32]) -> &[Complex32] {
    macro_rules! of_length {
        ($($len:literal: $function:path),*) => {
            match values.len() {
                $($len => values.try_into().map_or(&[], |values: &mut [f32; $len]| $function(values)),)*
                _ => &[],
            }
        };
    }
    of_length!(128: real::rfft_128, 256: real::rfft_256, 512: real::rfft_512, 1024: real::rfft_1024)
}

fn check_len(found: usize, expected: usize) -> Result<(), FrontEndError> {
    if found == expected { Ok(()) } else { Err(FrontEndError::Length { expected, found }) }
}

/// Why features cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FrontEndError {
    /// The parameters are impossible.
    Parameters(FrontEndProblem),
    /// The memory has fewer bytes than [`FrontEnd::memory_len`].
    MemoryTooSmall {
        /// Bytes needed.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The memory does not begin at a multiple of four bytes: use [`Arena`](crate::Arena).
    MemoryMisaligned,
    /// There are more or fewer values than needed.
    Length {
        /// Values needed.
        expected: usize,
        /// Values there are.
        found: usize,
    },
}

impl fmt::Display for FrontEndError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameters(problem) => write!(f, "features of sound: {problem}"),
            Self::MemoryTooSmall { expected, found } => {
                write!(f, "the features of sound need {expected} bytes of memory, found {found}")
            }
            Self::MemoryMisaligned => write!(
                f,
                "the memory for features of sound must begin at a multiple of {ALIGNMENT} bytes: \
                 use Arena"
            ),
            Self::Length { expected, found } => {
                write!(f, "expected {expected} samples or features, found {found}")
            }
        }
    }
}

impl core::error::Error for FrontEndError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arena;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const LOG_MEL: FrontEnd = FrontEnd {
        kind: FeatureKind::LogMel,
        sample_rate: 16_000,
        samples: 4_000,
        window: 480,
        hop: 320,
        fft: 512,
        mel_bins: 40,
        low_hz: 20,
        high_hz: 8_000,
    };
    const MFCC: FrontEnd = FrontEnd { kind: FeatureKind::Mfcc { coefficients: 10 }, ..LOG_MEL };

    #[test]
    fn a_tone_lies_in_its_band_and_silence_at_the_floor() {
        let mut memory = Arena::<{ LOG_MEL.memory_len() }>::new();
        let mut extractor = Extractor::new(LOG_MEL, memory.as_mut_slice()).unwrap();
        let mut row = [0.0; 40];
        extractor.row(&[0; 480], &mut row).unwrap();
        assert!(row.iter().all(|value| (value - libm::logf(ENERGY_FLOOR)).abs() < 1e-5));

        for band in [5, 17, 39] {
            // The centre of the band, from the formula's inverse.
            let step = (mel(8_000.0) - mel(20.0)) / 41.0;
            let hz = 700.0 * (libm::expf((mel(20.0) + (band as f32 + 1.0) * step) / 1127.0) - 1.0);
            let mut tone = [0; 480];
            for (n, sample) in tone.iter_mut().enumerate() {
                *sample = (20_000.0 * libm::sinf(2.0 * PI * hz * n as f32 / 16_000.0)) as i16;
            }
            extractor.row(&tone, &mut row).unwrap();
            let loudest = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            assert_eq!(loudest, Some(band), "{hz} Hz: {row:?}");
        }
    }

    #[test]
    fn wrong_lengths_and_memory_are_refused() {
        let mut memory = Arena::<{ MFCC.memory_len() + 4 }>::new();
        let expected = MFCC.memory_len();
        let error = Extractor::new(MFCC, &mut memory.as_mut_slice()[..expected - 1]).unwrap_err();
        assert_eq!(error, FrontEndError::MemoryTooSmall { expected, found: expected - 1 });
        let error = Extractor::new(MFCC, &mut memory.as_mut_slice()[1..]).unwrap_err();
        assert_eq!(error, FrontEndError::MemoryMisaligned);
        let impossible = FrontEnd { hop: 0, ..MFCC };
        let error = Extractor::new(impossible, memory.as_mut_slice()).unwrap_err();
        assert!(matches!(error, FrontEndError::Parameters(FrontEndProblem::Hop { .. })));
        let mut extractor = Extractor::new(MFCC, memory.as_mut_slice()).unwrap();
        assert!(extractor.row(&[0; 479], &mut [0.0; 10]).is_err());
        assert!(extractor.row(&[0; 480], &mut [0.0; 11]).is_err());
        assert!(extractor.clip(&[0; 4_001], &mut [0.0; 110]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Samples give the same features in whatever pieces they come.
        #[test]
        fn pieces_make_no_difference(
            samples in prop::collection::vec(any::<i16>(), MFCC.samples as usize),
            pieces in prop::collection::vec(0usize..700, 40),
        ) {
            let mut memory = Arena::<{ MFCC.memory_len() }>::new();
            let mut extractor = Extractor::new(MFCC, memory.as_mut_slice()).unwrap();
            let mut whole = vec![0.0; MFCC.rows() * MFCC.row_len()];
            extractor.clip(&samples, &mut whole).unwrap();

            let mut streamed = Vec::new();
            let mut rest = &samples[..];
            extractor.begin();
            for piece in pieces.into_iter().chain([samples.len()]) {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                extractor.push(now, |index, row| {
                    assert_eq!(index * row.len(), streamed.len());
                    streamed.extend_from_slice(row);
                });
                rest = later;
            }
            prop_assert_eq!(extractor.rows(), MFCC.rows());
            prop_assert_eq!(&streamed, &whole);

            let mut row = [0.0; 10];
            extractor.row(&samples[320..800], &mut row).unwrap();
            prop_assert_eq!(&row[..], &whole[10..20]);
        }
    }
}
