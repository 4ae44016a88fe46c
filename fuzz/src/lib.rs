//! What the fuzz targets do with their bytes. Nothing here may panic, whatever they are.

pub mod blob;
#[cfg(feature = "host")]
pub mod data;
pub mod federated;
pub mod link;
#[cfg(feature = "host")]
pub mod tflite;
