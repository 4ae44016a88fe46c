//! A model as a Rust module: for firmware that links it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use niwaki_core::Model;

/// Name of the blob beside the module.
const BLOB_FILE: &str = "model.niwaki";

/// Writes `mod.rs` and the blob into `folder`, which is made if need be; the firmware declares the
/// folder as a module. Gives the path of `mod.rs`.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write_rust_module(model: &Model<'_>, blob: &[u8], folder: &Path) -> Result<PathBuf> {
    let file = folder.join("mod.rs");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(folder.join(BLOB_FILE), blob))
        .and_then(|()| std::fs::write(&file, rust_module(model)))
        .with_context(|| format!("writing the Rust module in {}", folder.display()))?;
    Ok(file)
}

fn rust_module(model: &Model<'_>) -> String {
    let labels: Vec<&str> = (0..model.label_count()).map(|class| model.label(class)).collect();
    let mut consts = vec![
        ("MODEL_BYTES", model.len(), "Size of the model in bytes of flash."),
        ("ARENA_BYTES", model.arena_len(), "Size of the arena in bytes of RAM."),
        ("INPUT_LEN", model.input().len(), "Length of the input in bytes."),
        ("OUTPUT_LEN", model.output().len(), "Length of the output in bytes."),
    ];
    if let Some(front_end) = model.front_end() {
        let doc = "Size of the memory in which features of sound are computed, in bytes of RAM.";
        consts.push(("FRONT_END_BYTES", front_end.memory_len(), doc));
    }
    if let Ok(plan) = niwaki_core::learn::Plan::new(model) {
        consts.extend([
            ("LEARNER_BYTES", plan.learner_len(), "RAM for learning beside the arena, in bytes."),
            ("TAIL_BYTES", plan.tail_len(), "RAM for running what was learned, in bytes."),
        ]);
    }
    let mut text = format!(
        "//! The model `{}`, written by `niwaki`: do not edit.\n\
         #![allow(dead_code, reason = \"firmware may use a part of it\")]\n\n\
         use niwaki_core::{{AlignedBytes, Arena, Model, ModelError, RunError, Session}};\n\n",
        model.name().escape_default()
    );
    for (name, value, doc) in consts {
        let _ = writeln!(text, "/// {doc}\npub const {name}: usize = {value};");
    }
    let _ = write!(
        text,
        "/// The kernels that the model needs: no others are linked.\n\
         pub const KERNELS: u32 = {:#b};\n\
         /// Class labels.\n\
         pub const LABELS: [&str; {}] = {labels:?};\n\n\
         static BLOB: AlignedBytes<[u8; MODEL_BYTES]> = AlignedBytes(*include_bytes!({BLOB_FILE:?}));\n\n\
         /// A session with this model's kernels.\n\
         pub type ModelSession<'a> = Session<'static, 'a, KERNELS>;\n\n\
         /// The model, checked.\n\
         pub fn model() -> Result<Model<'static, KERNELS>, ModelError> {{\n    \
         // What the compiler knows of the bytes must not lead it to unroll their check.\n    \
         Model::with_kernels(core::hint::black_box(&BLOB.0))\n}}\n\n\
         /// A session in `arena`.\n\
         pub fn session<'a>(\n    model: Model<'static, KERNELS>,\n    arena: &'a mut Arena<ARENA_BYTES>,\n\
         ) -> Result<ModelSession<'a>, RunError> {{\n    Session::new(model, arena.as_mut_slice())\n}}\n",
        model.kernels(),
        labels.len(),
    );
    text
}
