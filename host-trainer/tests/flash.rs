//! `niwaki flash` with stand-ins for the tools: they note what they are asked, keep an image of the flash, and
//! fail as the tools do.
#![cfg(unix)]

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Both tools. `FAULT` names what goes wrong; `CHIP` is the chip that is connected.
const STAND_IN: &str = r#"#!/bin/sh
tool=$(basename "$0")
echo "$tool $*" >> "$STAND_IN/calls"
if [ "$FAULT" = no-probe ]; then
  case $tool in
    probe-rs) echo 'Error: No connected probes were found.' >&2 ;;
    espflash) echo 'Error: No serial ports could be detected' >&2 ;;
  esac
  exit 1
fi
command=$1; shift
address=0; positional=
while [ $# -gt 0 ]; do
  case $1 in
    --chip) chip=$2; shift ;;
    --base-address) address=$2; shift ;;
    --binary-format) format=$2; shift ;;
    --probe|--port|--partition-table) shift ;;
    --*) ;;
    *) positional="$positional $1" ;;
  esac
  shift
done
if [ "$chip" != "$CHIP" ]; then
  case $tool in
    probe-rs) echo "Error: Connecting to the chip was unsuccessful: unexpected device id" >&2 ;;
    espflash) echo "Error: Chip argument provided, but detected chip mismatch: $chip, $CHIP" >&2 ;;
  esac
  exit 1
fi
set -- $positional
put() { # file, address
  len=$(wc -c < "$1")
  if [ "$FAULT" = power ]; then len=$((len / 2)); fi
  head -c "$len" "$1" | dd of="$STAND_IN/flash" bs=4096 oflag=seek_bytes seek=$(($2)) conv=notrunc 2>/dev/null
  if [ "$FAULT" = power ]; then echo 'Error: The page write failed: USB device was unplugged' >&2; exit 1; fi
  if [ "$FAULT" = worn ]; then printf X | dd of="$STAND_IN/flash" bs=1 seek=$(($2 + 100)) conv=notrunc 2>/dev/null; fi
}
case "$tool $command" in
  'probe-rs download')
    [ "$format" = elf ] && exit 0
    put "$1" "$address"
    if ! cmp -s -n "$len" -i 0:$((address)) "$1" "$STAND_IN/flash"; then
      echo 'Error: Flash content verification failed.' >&2; exit 1
    fi ;;
  'probe-rs reset') ;;
  'espflash flash') ;;
  'espflash write-bin') put "$2" "$1" ;;
  'espflash read-flash')
    dd if="$STAND_IN/flash" of="$3" bs=4096 iflag=skip_bytes,count_bytes skip=$(($1)) count=$(($2)) 2>/dev/null ;;
  *) echo "error: unrecognized subcommand '$command'" >&2; exit 2 ;;
esac
"#;

/// A folder with the stand-ins, and a model for a Cortex-M4.
struct Bench {
    folder: TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for tool in ["probe-rs", "espflash"] {
            let path = folder.path().join(tool);
            std::fs::write(&path, STAND_IN).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let model = folder.path().join("model.niwaki");
        let fixture = root().join("tests/fixtures/perceptron.tflite");
        let bench = Self { folder, model };
        let imported = bench
            .niwaki(&["import", fixture.to_str().unwrap(), "-o", bench.model()])
            .output()
            .unwrap();
        assert!(imported.status.success(), "{imported:?}");
        bench
    }

    fn model(&self) -> &str {
        self.model.to_str().unwrap()
    }

    /// The command with the stand-ins first on its path and this chip connected.
    fn niwaki(&self, arguments: &[&str]) -> Command {
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_niwaki"));
        command.args(arguments).current_dir(root());
        command.env("PATH", path).env("STAND_IN", self.folder.path()).env_remove("FAULT");
        command
    }

    fn flash(&self, chip: &str, fault: &str, arguments: &[&str]) -> Output {
        let arguments = [&["flash", self.model()], arguments].concat();
        self.niwaki(&arguments).env("CHIP", chip).env("FAULT", fault).output().unwrap()
    }

    /// What the stand-ins were asked since the last look.
    fn calls(&self) -> Vec<String> {
        let path = self.folder.path().join("calls");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    /// What the flash holds.
    fn holds(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut file = std::fs::File::open(self.folder.path().join("flash")).unwrap();
        file.seek(SeekFrom::Start(address)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// An ELF file with what the host looks for in a firmware.
    fn firmware(&self, model_start: u32, kernels: u32) -> PathBuf {
        let path = self.folder.path().join("firmware.elf");
        let symbols = [
            ("_model_start", model_start, 0xfff1),
            ("_model_end", model_start + 0x10000, 0xfff1),
            ("_arena_start", 0x2000_0000, 0xfff1),
            ("_arena_end", 0x2000_8000, 0xfff1),
            ("NIWAKI_KERNELS", 0x1000_0100, 1),
        ];
        std::fs::write(&path, elf(0x1000_0100, &kernels.to_le_bytes(), &symbols)).unwrap();
        path
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What a command that must fail says.
fn failed(output: &Output) -> String {
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    text(&output.stderr)
}

/// A 32-bit Arm ELF file: one segment of data, and symbols with their value and section.
fn elf(address: u32, data: &[u8], symbols: &[(&str, u32, u16)]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.text\0.symtab\0.strtab\0.shstrtab\0";
    let words =
        |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let (mut strings, mut table) = (vec![0], vec![0; 16]);
    for (name, value, section) in symbols {
        table.extend(words(&[strings.len() as u32, *value, 0]));
        // A global object.
        table.extend([0x11, 0]);
        table.extend(section.to_le_bytes());
        strings.extend(name.bytes().chain([0]));
    }
    let parts: [&[u8]; 4] = [data, &table, &strings, NAMES];
    let mut offsets = vec![52 + 32];
    for part in parts {
        offsets.push(offsets[offsets.len() - 1] + part.len() as u32);
    }
    let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1];
    file.resize(16, 0);
    file.extend([2, 0, 40, 0]);
    file.extend(words(&[1, address, 52, offsets[4], 0]));
    for half in [52u16, 32, 1, 40, 5, 4] {
        file.extend(half.to_le_bytes());
    }
    let len = data.len() as u32;
    file.extend(words(&[1, offsets[0], address, address, len, len, 5, 4]));
    parts.iter().for_each(|part| file.extend(*part));
    file.extend([0; 40]);
    // Name, type, flags, address, offset, size, link, info, alignment, size of an entry.
    let size = |part: usize| parts[part].len() as u32;
    file.extend(words(&[1, 1, 6, address, offsets[0], size(0), 0, 0, 4, 0]));
    file.extend(words(&[7, 2, 0, 0, offsets[1], size(1), 3, 1, 4, 16]));
    file.extend(words(&[15, 3, 0, 0, offsets[2], size(2), 0, 0, 1, 0]));
    file.extend(words(&[23, 3, 0, 0, offsets[3], size(3), 0, 0, 1, 0]));
    file
}

#[test]
fn the_model_gets_into_its_partition_and_nothing_else_is_touched() {
    let bench = Bench::new();
    let model = std::fs::read(&bench.model).unwrap();
    let boards = [
        ("nrf52840-dk", "nRF52840_xxAA", 0x0004_0000, None),
        ("nucleo-l4r5zi", "STM32L4R5ZI", 0x0804_0000, None),
        ("nucleo-h743zi", "STM32H743ZI", 0x0804_0000, Some("cortex-m7")),
        ("pico", "RP2040", 0x1008_0000, Some("cortex-m0")),
        ("pico-2", "RP235x", 0x1008_0000, Some("cortex-m33")),
    ];
    for (board, chip, address, other_core) in boards {
        let other: &[&str] = if other_core.is_some() { &["--other-core"] } else { &[] };
        let said = succeeded(&bench.flash(chip, "", &[&["--board", board], other].concat()));
        assert!(said.contains("written and verified"), "{said}");
        assert_eq!(bench.holds(address, model.len()), model, "{board}");
        let download = format!(
            "probe-rs download --chip {chip} --verify --binary-format bin --base-address {address:#010x} {}",
            bench.model()
        );
        let calls = bench.calls();
        assert_eq!(calls, [download.clone(), format!("probe-rs reset --chip {chip}")]);

        let dry = [&["--board", board, "--dry-run"], other].concat();
        let shown = succeeded(&bench.flash(chip, "", &dry));
        assert_eq!(shown.lines().collect::<Vec<_>>(), calls);
        assert_eq!(bench.calls(), [""; 0]);

        if let Some(core) = other_core {
            let said = failed(&bench.flash(chip, "", &["--board", board]));
            assert!(said.contains("exported for cortex-m4") && said.contains(core), "{said}");
        }
    }
}

#[test]
fn an_esp32_is_written_by_espflash_and_read_back() {
    let bench = Bench::new();
    let model = std::fs::read(&bench.model).unwrap();
    let esp = ["--board", "esp32-c3", "--other-core", "--port", "/dev/ttyUSB7"];
    succeeded(&bench.flash("esp32c3", "", &esp));
    assert_eq!(bench.holds(0x11_0000, model.len()), model);
    let calls = bench.calls();
    let options = "--chip esp32c3 --port /dev/ttyUSB7 0x110000";
    assert_eq!(calls[0], format!("espflash write-bin {options} {}", bench.model()));
    assert!(calls[1].starts_with(&format!("espflash read-flash {options} {:#x} ", model.len())));
    assert_eq!(calls.len(), 2);

    let said = failed(&bench.flash("esp32c3", "worn", &esp));
    assert!(said.contains("first in byte 100 of it: flash it again"), "{said}");
    let said = failed(&bench.flash("esp32c3", "no-probe", &esp));
    assert!(said.contains("connect esp32-c3 by USB"), "{said}");
    let said = failed(&bench.flash("esp32c6", "", &esp));
    assert!(said.contains("is it esp32-c3, with a ESP32-C3, that is connected?"), "{said}");
}

#[test]
fn failures_say_what_to_do() {
    let bench = Bench::new();
    let nrf = ["--board", "nrf52840-dk"];
    let chip = "nRF52840_xxAA";

    let said = failed(&bench.flash(chip, "no-probe", &nrf));
    assert!(said.contains("No connected probes") && said.contains("probe-setup"), "{said}");
    let said = failed(&bench.flash("STM32L4R5ZI", "", &nrf));
    assert!(said.contains("is it nrf52840-dk, with a nRF52840, that is connected?"), "{said}");
    let said = failed(&bench.flash(chip, "power", &nrf));
    assert!(said.contains("unplugged") && said.contains("flash again"), "{said}");
    // Half a model is in the flash; another attempt brings the rest.
    let model = std::fs::read(&bench.model).unwrap();
    assert_eq!(bench.holds(0x4_0000, model.len() / 2), model[..model.len() / 2]);
    succeeded(&bench.flash(chip, "", &nrf));
    assert_eq!(bench.holds(0x4_0000, model.len()), model);
    let said = failed(&bench.flash(chip, "worn", &nrf));
    assert!(said.contains("verification failed"), "{said}");

    // Without the tool: how to get it.
    let arguments = ["flash", bench.model(), "--board", "nrf52840-dk"];
    let output = bench.niwaki(&arguments).env("PATH", "/nowhere").output().unwrap();
    let said = failed(&output);
    assert!(said.contains("probe-rs is not on the PATH; get it with `cargo install"), "{said}");

    let said = failed(&bench.flash(chip, "", &["--board", "mps2-an386"]));
    assert!(said.contains("it is emulated"), "{said}");
    let said = failed(&bench.flash(chip, "", &["--board", "arduino"]));
    assert!(said.contains("nrf52840-dk, ") && said.contains("pico-2"), "{said}");
    let said = failed(&bench.flash(chip, "", &["--board", "nrf52840-dk", "--uf2", "m.uf2"]));
    assert!(said.contains("takes no UF2 file"), "{said}");
}

#[test]
fn firmware_is_checked_against_the_model_and_written_before_it() {
    let bench = Bench::new();
    let chip = "nRF52840_xxAA";
    let flash = |elf: &Path, more: &[&str]| {
        let elf = ["--board", "nrf52840-dk", "--elf", elf.to_str().unwrap()];
        bench.flash(chip, "", &[&elf, more].concat())
    };
    let elf = bench.firmware(0x4_0000, u32::MAX);
    succeeded(&flash(&elf, &["--firmware"]));
    let calls = bench.calls();
    let first =
        format!("probe-rs download --chip {chip} --verify --binary-format elf {}", elf.display());
    assert_eq!((calls.len(), &calls[0]), (3, &first));
    succeeded(&flash(&elf, &[]));
    assert_eq!(bench.calls().len(), 2);

    let said = failed(&flash(&bench.firmware(0x4_0000, 0), &[]));
    assert!(said.contains("kernels that the firmware was built without: linear"), "{said}");
    let said = failed(&flash(&bench.firmware(0x8_0000, u32::MAX), &["--firmware"]));
    assert!(said.contains("not a firmware for nrf52840-dk"), "{said}");
    assert_eq!(bench.calls(), [""; 0]);
}

#[test]
fn a_pico_takes_uf2_files() {
    let bench = Bench::new();
    let elf = bench.firmware(0x1008_0000, u32::MAX);
    let path = bench.folder.path().join("m.uf2");
    let order = ["--board", "pico", "--other-core", "--uf2", path.to_str().unwrap()];
    let firmware = ["--firmware", "--elf", elf.to_str().unwrap(), "--format", "json"];
    let output = bench.flash("", "", &[&order[..], &firmware].concat());
    let done: Value = serde_json::from_str(&succeeded(&output)).unwrap();
    assert_eq!(done["steps"].as_array().map(Vec::len), Some(2), "{done}");

    let model = std::fs::read(&bench.model).unwrap();
    let (bytes, families) = uf2_decode::convert_from_uf2(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(&bytes[..model.len()], model);
    assert_eq!(families.get(&0xe48b_ff56), Some(&0x1008_0000));
    let program = std::fs::read(path.with_extension("firmware.uf2")).unwrap();
    let (bytes, families) = uf2_decode::convert_from_uf2(&program).unwrap();
    assert_eq!((&bytes[..4], bytes.len()), (&[0xff; 4][..], 256));
    assert_eq!(families.get(&0xe48b_ff56), Some(&0x1000_0100));
}
