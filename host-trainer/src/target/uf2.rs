//! UF2: files that a board takes which shows itself as a drive. See <https://github.com/microsoft/uf2>.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use object::read::elf::{ElfFile32, ProgramHeader as _};
use object::{Endianness, elf};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

const MAGIC_START: [u32; 2] = [0x0a32_4655, 0x9e5d_5157];
const MAGIC_END: u32 = 0x0ab1_6f30;
const HAS_FAMILY: u32 = 0x2000;
/// Bytes of the flash in one block: the size of a page that boot ROMs write at a time.
const PAGE: usize = 256;

/// A block of a file.
#[derive(IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct Block {
    magic: [U32; 2],
    flags: U32,
    address: U32,
    len: U32,
    number: U32,
    count: U32,
    family: U32,
    data: [u8; 476],
    magic_end: U32,
}

/// A file that writes each of `pieces` to its address. The rest of their first and last pages becomes 0.
pub(super) fn write(pieces: &[(u32, &[u8])], family: u32) -> Vec<u8> {
    let mut pages: BTreeMap<u32, [u8; PAGE]> = BTreeMap::new();
    for (address, bytes) in pieces {
        for (index, byte) in bytes.iter().enumerate() {
            let address = address.wrapping_add(index as u32);
            let within = address % PAGE as u32;
            pages.entry(address - within).or_insert([0; PAGE])[within as usize] = *byte;
        }
    }
    let count = U32::new(pages.len() as u32);
    let mut file = Vec::with_capacity(pages.len() * size_of::<Block>());
    for (number, (address, page)) in pages.iter().enumerate() {
        let mut block = Block {
            magic: MAGIC_START.map(U32::new),
            flags: HAS_FAMILY.into(),
            address: (*address).into(),
            len: (PAGE as u32).into(),
            number: (number as u32).into(),
            count,
            family: family.into(),
            data: [0; 476],
            magic_end: MAGIC_END.into(),
        };
        block.data[..PAGE].copy_from_slice(page);
        file.extend_from_slice(block.as_bytes());
    }
    file
}

/// A file that writes what an ELF file loads into the flash.
pub(super) fn of_elf(bytes: &[u8], family: u32) -> Result<Vec<u8>> {
    let file = ElfFile32::<Endianness>::parse(bytes).context("not an ELF file of 32 bits")?;
    let endian = file.endian();
    let mut pieces = Vec::new();
    for header in file.elf_program_headers() {
        if header.p_type(endian) == elf::PT_LOAD && header.p_filesz(endian) > 0 {
            let data =
                header.data(endian, bytes).ok().context("a segment lies outside the file")?;
            pieces.push((header.p_paddr(endian), data));
        }
    }
    ensure!(!pieces.is_empty(), "it loads nothing");
    Ok(write(&pieces, family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_padded_and_counted() {
        let data: Vec<u8> = (0..300u32).map(|i| i as u8 | 1).collect();
        let file = write(&[(0x1008_0010, &data)], 0xe48b_ff56);
        assert_eq!(file.len(), 2 * 512);
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        for (block, address) in [(0, 0x1008_0000), (1, 0x1008_0100)] {
            let at = block * 512;
            let header = [0, 4, 8, 12, 16, 20, 24, 28].map(|offset| word(at + offset));
            let number = block as u32;
            assert_eq!(
                header,
                [0x0a32_4655, 0x9e5d_5157, 0x2000, address, 256, number, 2, 0xe48b_ff56]
            );
            assert_eq!(word(at + 508), 0x0ab1_6f30);
        }
        assert_eq!((file[32], file[32 + 15], file[32 + 16]), (0, 0, data[0]));
        let second = &file[512 + 32..][..256];
        assert_eq!((&second[..60], &second[60..]), (&data[240..], &[0; 196][..]));
    }
}
