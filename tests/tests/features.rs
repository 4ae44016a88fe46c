//! Features of sound against those of TensorFlow's `tf.signal`.

use std::fs::File;
use std::path::Path;

use niwaki::export::AlignedVec;
use niwaki_core::frontend::Extractor;
use niwaki_core::model::{FeatureKind, FrontEnd};
use npyz::npz::NpzArchive;

const TOLERANCE: f32 = 1e-3;

#[test]
fn features_are_those_of_tf_signal() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/features.npz");
    let mut file = NpzArchive::new(File::open(path).unwrap()).unwrap();
    let samples: Vec<i16> = file.by_name("samples").unwrap().unwrap().into_vec().unwrap();
    for name in ["mfcc", "log_mel", "narrow", "short"] {
        let parameters: Vec<i32> = file.by_name(name).unwrap().unwrap().into_vec().unwrap();
        let expected = file.by_name(&format!("{name}_features")).unwrap().unwrap();
        let expected: Vec<f32> = expected.into_vec().unwrap();
        let [rate, window, hop, fft, mel_bins, low, high, coefficients] = parameters[..] else {
            panic!("{name}: {parameters:?}");
        };
        let front_end = FrontEnd {
            kind: match coefficients as u16 {
                0 => FeatureKind::LogMel,
                coefficients => FeatureKind::Mfcc { coefficients },
            },
            sample_rate: rate as u32,
            samples: samples.len() as u32,
            window: window as u16,
            hop: hop as u16,
            fft: fft as u16,
            mel_bins: mel_bins as u16,
            low_hz: low as u16,
            high_hz: high as u16,
        };
        let mut memory = AlignedVec::zeroed(front_end.memory_len());
        let mut extractor = Extractor::new(front_end, memory.as_arena()).unwrap();
        let mut found = vec![0.0; front_end.rows() * front_end.row_len()];
        extractor.clip(&samples, &mut found).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: largest difference {worst:e}");
        assert!(worst < TOLERANCE, "{name}: {worst}");
    }
}
