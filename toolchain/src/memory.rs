//! The memory of a board, as its `memory.x` describes it to the linker.

use anyhow::{Context, Result, ensure};

use crate::Board;

/// A region of a board's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Name: `FLASH`, `RAM`, `MODEL`, `ARENA`.
    pub name: String,
    /// First address.
    pub origin: u64,
    /// Size in bytes.
    pub length: u64,
}

impl Board {
    /// The region called `name`.
    ///
    /// # Errors
    ///
    /// As [`memory`](Self::memory), and when there is no such region.
    pub fn region(&self, name: &str) -> Result<Region> {
        let found = self.memory()?.into_iter().find(|region| region.name == name);
        found.with_context(|| format!("{}: memory.x has no region {name}", self.name))
    }

    /// The regions of the board's memory, in the order of its `memory.x`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or holds no region of the form `NAME : ORIGIN = 0x0, LENGTH = 4M - 64K`.
    pub fn memory(&self) -> Result<Vec<Region>> {
        let path = self.folder.join("memory.x");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let regions: Vec<Region> = text.lines().filter_map(region).collect();
        ensure!(!regions.is_empty(), "{}: no memory region", path.display());
        Ok(regions)
    }
}

fn region(line: &str) -> Option<Region> {
    let (name, rest) = line.split_once(':')?;
    let (origin, length) = rest.split_once(',')?;
    let value = |text: &str, key: &str| {
        let (found, value) = text.split_once('=')?;
        (found.trim() == key).then(|| sum(value)).flatten()
    };
    // Attributes such as `(rx)` may follow the name.
    let name = name.split_whitespace().next()?.to_owned();
    Some(Region { name, origin: value(origin, "ORIGIN")?, length: value(length, "LENGTH")? })
}

/// A sum or difference of numbers such as `0x400`, `64K` or `4M`.
fn sum(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text.trim();
    let mut subtract = false;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let term = number(rest[..end].trim())?;
        total = if subtract { total.checked_sub(term)? } else { total.checked_add(term)? };
        match rest.as_bytes().get(end) {
            Some(sign) => subtract = *sign == b'-',
            None => return Some(total),
        }
        rest = &rest[end + 1..];
    }
}

fn number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix(['M', 'm']).map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_linker_scripts() {
        let arena = Region { name: "ARENA".into(), origin: 0x2000_0000, length: 4_128_768 };
        assert_eq!(region("  ARENA : ORIGIN = 0x20000000, LENGTH = 4M - 64K"), Some(arena));
        assert_eq!(region("RAM (rwx): ORIGIN = 0, LENGTH = 16 + 0x10 - 2").unwrap().length, 30);
        for line in [
            "/* 4 MiB: at 0, of RAM */",
            "_arena_start = ORIGIN(ARENA);",
            "X : ORIGIN = 0, LENGTH = 1K - 2K",
        ] {
            assert_eq!(region(line), None, "{line}");
        }
    }

    #[test]
    fn every_board_has_flash_ram_and_places_for_model_and_arena() {
        for board in crate::boards(&crate::checkout().unwrap()).unwrap() {
            let memory = board.memory().unwrap();
            for name in ["FLASH", "RAM", "MODEL", "ARENA"] {
                assert!(memory.iter().any(|region| region.name == name), "{}: {name}", board.name);
            }
            assert!(!board.is_real() || memory.iter().any(|region| region.name == "STATE"));
            for (index, region) in memory.iter().enumerate() {
                let end = region.origin + region.length;
                for other in &memory[index + 1..] {
                    let apart = end <= other.origin || other.origin + other.length <= region.origin;
                    assert!(apart, "{}: {} and {}", board.name, region.name, other.name);
                }
            }
        }
    }
}
