//! Everything learned, as plain host tensors by name: what checkpoints, export and tests exchange.
//!
//! | name | shape | what |
//! |---|---|---|
//! | `<layer>.weight` | OIHW or `[out, in]` | weights of a convolution or linear layer |
//! | `<layer>.mask` | as the weight | 1 where the weight belongs to the backbone, else 0; absent when dense |
//! | `<layer>.bias.mask`, `.beta.mask` | `[channels]` | 0 for the channels that are removed; absent when there are none |
//! | `<layer>.bias` | `[out]` | bias |
//! | `<layer>.gamma`, `.beta` | `[channels]` | scale and shift of a batch norm |
//! | `<layer>.mean`, `.var` | `[channels]` | running statistics of the backbone |
//! | `<layer>.range` | `[2]` | smallest and largest value of a fused unit's output, named after its last layer |
//! | `input.range` | `[2]` | the same of the network's input, after normalisation |
//!
//! A linear layer that follows `flatten` has its inputs in the order channel, row, column.
//! Checkpoints hold more (names that start with `whole/` and `optimiser/`), which only training reads.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use anyhow::{Context, bail, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// A tensor in memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Size of each dimension.
    pub shape: Vec<usize>,
    /// The values.
    pub data: Vec<f32>,
}

/// Named tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params(BTreeMap<String, HostTensor>);

impl Params {
    /// Adds or replaces a tensor.
    ///
    /// # Panics
    /// When the number of values does not fit the shape.
    pub fn insert(&mut self, name: impl Into<String>, shape: &[usize], data: Vec<f32>) {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "values and shape");
        self.0.insert(name.into(), HostTensor { shape: shape.to_vec(), data });
    }

    /// The tensor of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<&HostTensor> {
        self.0.get(name)
    }

    /// The values of a tensor that must be there with this shape.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> anyhow::Result<&[f32]> {
        let tensor = self.0.get(name).with_context(|| format!("the tensor `{name}` is missing"))?;
        ensure!(
            tensor.shape == shape,
            "the tensor `{name}` has the shape {:?}; the network needs {shape:?}",
            tensor.shape
        );
        Ok(&tensor.data)
    }

    /// All tensors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Sets every value outside its mask to zero: what remains is the backbone.
    pub fn drop_masked(&mut self) {
        let masks: Vec<(String, Vec<f32>)> = self
            .0
            .iter()
            .filter_map(|(name, mask)| Some((name.strip_suffix(".mask")?, mask)))
            .map(|(masked, mask)| {
                let name = match self.0.contains_key(masked) {
                    true => masked.to_owned(),
                    false => format!("{masked}.weight"),
                };
                (name, mask.data.clone())
            })
            .collect();
        for (name, mask) in masks {
            if let Some(weight) = self.0.get_mut(&name) {
                for (value, keep) in weight.data.iter_mut().zip(mask) {
                    if keep == 0.0 {
                        *value = 0.0;
                    }
                }
            }
        }
    }

    /// Number of nonzero weights of a layer.
    pub fn nonzeros(&self, layer: &str) -> usize {
        self.find(&format!("{layer}.weight"))
            .map_or(0, |weight| weight.data.iter().filter(|&&value| value != 0.0).count())
    }

    /// Writes a safetensors file with one line of text beside the tensors. The file is replaced at
    /// once: whoever reads `path` sees the old content or the new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path, note: &str) -> anyhow::Result<()> {
        let bytes: Vec<Vec<u8>> = self
            .0
            .values()
            .map(|tensor| tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views: Vec<(&String, TensorView<'_>)> = self
            .0
            .iter()
            .zip(&bytes)
            .map(|((name, tensor), bytes)| {
                Ok((name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?))
            })
            .collect::<Result<_, safetensors::SafeTensorError>>()?;
        let notes = HashMap::from([("niwaki".to_owned(), note.to_owned())]);
        // Goes through a temporary file in the same folder.
        safetensors::serialize_to_file(views, Some(notes), path)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Reads what [`save`](Self::save) wrote: the tensors and the line of text.
    ///
    /// # Errors
    /// When the file cannot be read or is no safetensors file of 32-bit floats.
    pub fn load(path: &Path) -> anyhow::Result<(Self, String)> {
        let name = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("reading {name}"))?;
        let (_, header) = SafeTensors::read_metadata(&bytes)
            .with_context(|| format!("{name} is not a safetensors file"))?;
        let note = header.metadata().as_ref().and_then(|notes| notes.get("niwaki")).cloned();
        let tensors = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("{name} is a damaged safetensors file"))?;
        let mut params = Self::default();
        for (tensor, view) in tensors.iter() {
            if view.dtype() != Dtype::F32 {
                bail!(
                    "{name}: the tensor `{tensor}` has the type {:?}; expected F32",
                    view.dtype()
                );
            }
            let data = view
                .data()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                .collect();
            params.insert(tensor, view.shape(), data);
        }
        Ok((params, note.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_round_trip_is_bit_exact() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.safetensors");
        let mut params = Params::default();
        params.insert("a.weight", &[2, 2], vec![1.5, -0.0, f32::MIN_POSITIVE / 2.0, 3e38]);
        params.insert("a.mask", &[2, 2], vec![1.0, 1.0, 0.0, 0.0]);
        params.save(&path, "first").unwrap();
        params.save(&path, "second").unwrap();
        let (mut loaded, note) = Params::load(&path).unwrap();
        assert_eq!((&loaded, note.as_str()), (&params, "second"));
        assert!(loaded.get("a.weight", &[4]).unwrap_err().to_string().contains("[2, 2]"));
        loaded.drop_masked();
        assert_eq!(loaded.nonzeros("a"), 1);

        std::fs::write(&path, b"not tensors").unwrap();
        assert!(Params::load(&path).unwrap_err().to_string().contains("p.safetensors"));
    }
}
