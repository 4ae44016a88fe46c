//! Emulated boards with their firmware.

use std::sync::OnceLock;

use niwaki::target::{Board, Firmware, Target};

/// Every board of the checkout that has an emulator, with its firmware.
///
/// # Panics
///
/// When there is none, or a firmware cannot be built.
pub fn emulated() -> &'static [(Board, Firmware)] {
    static BOARDS: OnceLock<Vec<(Board, Firmware)>> = OnceLock::new();
    BOARDS.get_or_init(|| {
        let emulated = |target| match target {
            Target::Board(board) if board.about.emulator.is_some() => {
                let firmware = Firmware::build(&board, &|line| eprintln!("{line}")).unwrap();
                Some((board, firmware))
            }
            _ => None,
        };
        let boards: Vec<_> = Target::all().unwrap().into_iter().filter_map(emulated).collect();
        assert!(!boards.is_empty());
        boards
    })
}

/// The emulated board of the target called `name`.
///
/// # Panics
///
/// When there is none.
pub fn board(name: &str) -> &'static (Board, Firmware) {
    let found = emulated().iter().find(|(board, _)| board.about.target == name);
    found.unwrap_or_else(|| panic!("no board has the target {name}"))
}
