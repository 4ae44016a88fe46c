//! Binary files, plain or `.gz`, read in pieces of known length.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{DataError, Place};

/// A file that is read from front to back. It knows its path and position, so that an error can tell them.
pub(super) struct ByteReader {
    path: PathBuf,
    reader: Box<dyn Read>,
    offset: u64,
    /// Length of a plain file; that of a compressed one shows only when it is read.
    len: Option<u64>,
}

/// Opens a file, decompressing it when its name ends in `.gz`.
pub(super) fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let file = File::open(path).map_err(|e| DataError::read(path, e))?;
    Ok(if is_gz(path) {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(BufReader::new(file))
    })
}

fn is_gz(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

impl ByteReader {
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let len = match is_gz(path) {
            true => None,
            false => {
                let metadata = path.metadata().map_err(|e| DataError::read(path, e))?;
                Some(metadata.len())
            }
        };
        Ok(Self { path: path.to_owned(), reader: open(path)?, offset: 0, len })
    }

    /// Length of a plain file.
    pub(super) fn len(&self) -> Option<u64> {
        self.len
    }

    /// Reads exactly `len` bytes of `what`. Memory is taken only for bytes that are there.
    pub(super) fn bytes(&mut self, len: u64, what: &str) -> Result<Vec<u8>, DataError> {
        let expected = || format!("{len} bytes of {what} from byte {}", self.offset);
        if let Some(total) = self.len
            && total.saturating_sub(self.offset) < len
        {
            let found = format!("the end of the file at byte {total}");
            return Err(self.damaged_at(total, expected(), found));
        }
        let mut bytes = Vec::new();
        let result = self.reader.by_ref().take(len).read_to_end(&mut bytes);
        let end = self.offset + bytes.len() as u64;
        if let Err(e) = result {
            return Err(self.failed(end, e, expected()));
        }
        if (bytes.len() as u64) < len {
            return Err(self.damaged_at(end, expected(), "the end of the data"));
        }
        self.offset = end;
        Ok(bytes)
    }

    /// Reads a big-endian number.
    pub(super) fn u32_be(&mut self, what: &str) -> Result<u32, DataError> {
        let bytes = self.bytes(4, what)?;
        Ok(bytes.iter().fold(0, |n, &byte| n << 8 | u32::from(byte)))
    }

    /// Checks that nothing follows; of a `.gz` file this also checks the checksum.
    pub(super) fn end(mut self) -> Result<(), DataError> {
        let mut rest = [0];
        match self.reader.read(&mut rest) {
            Ok(0) => Ok(()),
            Ok(_) => {
                let expected = "the end of the data";
                Err(self.damaged_at(self.offset, expected, "more bytes"))
            }
            Err(e) => Err(self.failed(self.offset, e, "the end of the data".to_owned())),
        }
    }

    /// An error at a byte offset of the (decompressed) content.
    pub(super) fn damaged_at(
        &self,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> DataError {
        let place = match self.len {
            Some(_) => Place::Byte(offset),
            None => Place::DecompressedByte(offset),
        };
        DataError::damaged(&self.path, place, expected, found)
    }

    fn failed(&self, offset: u64, error: io::Error, expected: String) -> DataError {
        match self.len {
            Some(_) => DataError::read(&self.path, error),
            // The decoder reports damage as an I/O error.
            None => self.damaged_at(offset, expected, format!("damaged gzip data ({error})")),
        }
    }
}
