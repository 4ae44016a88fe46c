//! TensorFlow Lite files: any bytes are imported and exported, or refused with an error.

use niwaki::export::write;

/// Imports the bytes, and exports what comes of them.
pub fn run(data: &[u8]) {
    /// Larger tensors take long and show nothing new.
    const VALUES_MAX: usize = 1 << 16;
    let Ok(graph) = niwaki::import::tflite(data, "fuzz") else { return };
    let small = graph.tensors.iter().all(|tensor| {
        let [height, width, channels] = tensor.shape;
        let values = height.checked_mul(width).and_then(|area| area.checked_mul(channels));
        values.is_some_and(|values| values <= VALUES_MAX)
    });
    if small {
        let _ = write(&graph);
    }
}
