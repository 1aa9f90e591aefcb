//! Reads the status of the accelerator's clocks at GPIO inputs of the processing system (EMIO),
//! through Linux's sysfs, as PYNQ reads GPIO. The controller is no part of the FPGA, so it answers
//! with any bitstream and any clock.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{attribute, entries, io, number};
use crate::isa::clocks::LINES;

/// Labels of the processing systems' controllers, and the first of their lines that is an EMIO.
const CONTROLLERS: [(&str, u64); 2] = [("zynqmp_gpio", 78), ("zynq_gpio", 54)];

/// Returns sysfs's folder of GPIO.
fn class(sys: &Path) -> PathBuf {
    sys.join("class/gpio")
}

/// Returns the file that makes lines available to programs.
fn export(sys: &Path) -> PathBuf {
    class(sys).join("export")
}

/// Finds the number of the first EMIO.
fn first_line(sys: &Path) -> Result<u64, String> {
    let class = class(sys);
    for chip in entries(&class) {
        let label = attribute(&class.join(&chip).join("label")).unwrap_or_default();
        let known = |&&(name, _): &&(&str, u64)| name == label;
        if let Some((_, emio)) = CONTROLLERS.iter().find(known) {
            return Ok(number(&class.join(&chip).join("base"))? + emio);
        }
    }
    Err(format!(
        "{} has no {} or {}, which shows whether the accelerator has a clock: the kernel needs \
         CONFIG_GPIO_ZYNQ and CONFIG_GPIO_SYSFS",
        class.display(),
        CONTROLLERS[0].0,
        CONTROLLERS[1].0
    ))
}

/// The lines of the word, open for reading.
#[derive(Debug)]
pub struct StatusLines(Vec<(PathBuf, File)>);

impl StatusLines {
    /// Opens the lines; those that programs cannot read yet are made available.
    ///
    /// # Errors
    /// A message if the kernel shows no such lines or the files cannot be opened.
    pub fn open(sys: &Path) -> Result<Self, String> {
        let first = first_line(sys)?;
        let open = |line: u64| {
            let path = class(sys).join(format!("gpio{line}/value"));
            if !path.exists() {
                let export = export(sys);
                fs::write(&export, format!("{line}\n")).map_err(io(&export))?;
            }
            let file = File::open(&path).map_err(io(&path))?;
            Ok((path, file))
        };
        let lines = (first..first + u64::from(LINES)).map(open);
        lines.collect::<Result<_, _>>().map(Self)
    }

    /// Reads the word.
    ///
    /// # Errors
    /// A message if a line cannot be read.
    pub fn read(&self) -> Result<u32, String> {
        let mut word = 0;
        for (bit, (path, file)) in self.0.iter().enumerate() {
            let mut value = [0];
            file.read_exact_at(&mut value, 0).map_err(io(path))?;
            match value[0] {
                b'0' => {}
                b'1' => word |= 1 << bit,
                _ => return Err(format!("{} is neither 0 nor 1", path.display())),
            }
        }
        Ok(word)
    }
}

/// Returns why the lines cannot be read, and the file that must be writable before they can be.
/// Accesses no line.
pub(super) fn survey(sys: &Path) -> (Option<String>, Option<PathBuf>) {
    match first_line(sys) {
        Err(problem) => (Some(problem), None),
        Ok(first) => {
            let shown = |line| class(sys).join(format!("gpio{line}/value")).exists();
            let all = (first..first + u64::from(LINES)).all(shown);
            (None, (!all).then(|| export(sys)))
        }
    }
}
