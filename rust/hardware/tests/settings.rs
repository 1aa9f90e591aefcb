//! Tests that files of boards and configurations are refused by the name of their key.

use quasar_hardware::{Board, Hardware};

fn read(path: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    std::fs::read_to_string(format!("{root}/{path}.toml")).unwrap()
}

/// Expects an error from each change of a file: a row of `changes` is `old -> new: part of the
/// message`.
fn refuses<T: std::fmt::Debug>(
    text: &str,
    changes: &str,
    parse: impl Fn(&str) -> quasar_core::error::Result<T>,
) {
    parse(text).unwrap();
    for change in changes.trim().lines().map(str::trim) {
        let (old, rest) = change.split_once(" -> ").unwrap();
        let (new, part) = rest.split_once(": ").unwrap();
        let bad = text.replacen(old, new, 1);
        assert_ne!(bad, text, "{old}");
        let message = parse(&bad).unwrap_err().to_string();
        assert!(message.contains(part), "{new}: {message}");
    }
}

#[test]
fn hostile_boards_name_the_key() {
    let changes = r#"
        name =  -> nome = : unknown field `nome`
        "zcu102" -> "": name (its length): 0 is outside
        "zcu102" -> "\u001b[2J": name: has control characters
        array_clock_mhz = 300.0 -> array_clock_mhz = 0.5: array_clock_mhz: 0.5 is outside
        dsp = 0.85 -> dsp = 1.5: usable.dsp: 1.5 is outside
        idle_w = 3.5 -> idle_w = nan: power.idle_w: NaN is outside
        dsp = 2520 -> dsp = 0: resources.dsp: 0 is outside
        dsp = 2520 -> dsp = -1: integer `-1`
        "DSP48E2" -> "DSP58": unknown variant `DSP58`
        [150.0, 200.0] -> [nan]: clocks_mhz: NaN is outside
        [150.0, 200.0] -> []: clocks_mhz (their number): 0
        [150.0, 200.0] -> [1e9]: clocks_mhz: 1000000000 is outside
        peak_gb_s = 17.0 -> peak_gb_s = inf: ddr.peak_gb_s: inf is outside
        efficiency = 0.7 -> efficiency = 0.0: ddr.efficiency: 0 is outside
        bits = 128 -> bits = 7: axi.bits: 7 is none of
        ports = 4 -> ports = 0: axi.ports: 0 is outside
        cores = 4 -> cores = 0: host.cores: 0 is outside
        frame_us = 150.0 -> frame_us = -1.0: host.frame_us: -1 is outside
    "#;
    let board = Board::from_toml(&read("python/quasar_rt/boards/zcu102")).unwrap();
    refuses(&board.to_toml(), changes, Board::from_toml);
}

#[test]
fn keys_that_are_left_out_have_defaults() {
    let without = |text: &str, keys: &[&str]| {
        let kept = text
            .lines()
            .filter(|l| !keys.iter().any(|key| l.starts_with(key)));
        kept.flat_map(|line| [line, "\n"]).collect::<String>()
    };
    let text = without(&read("python/quasar_rt/boards/zcu102"), &["segment_us"]);
    let board = Board::from_toml(&text).unwrap();
    assert_eq!(board.host.segment_us.to_string(), "100");
    assert_eq!(Board::from_toml(&board.to_toml()).unwrap(), board);
    let keys = ["cascade", "clock_ratio", "counters"];
    let text = without(&read("fpga/configs/zcu102"), &keys);
    let hardware = Hardware::from_toml(&text, board.clone()).unwrap();
    let settings = hardware.configuration();
    assert_eq!((settings.array.cascade, settings.array.clock_ratio), (1, 1));
    assert!(settings.counters);
    assert_eq!(
        Hardware::from_toml(&hardware.to_toml(), board).unwrap(),
        hardware
    );
}

#[test]
fn hostile_configurations_name_the_key() {
    let changes = r#"
        clock_mhz = 150.0 -> clock_mhz = nan: clock_mhz: NaN is outside
        clock_mhz = 150.0 -> clock_mhz = 0.0: clock_mhz: 0 is outside
        clock_mhz = 150.0 -> clock_hz = 150.0: unknown field `clock_hz`
        frames = 2 -> frames = 3: frames: 3 is outside [1, 2]
        axi_ports = 4 -> axi_ports = 5: axi_ports: 5 is outside [1, 4]
        tokens = 50 -> tokens = 0: array.tokens: 0 is outside
        tokens = 50 -> tokens = 9999999999: array.tokens: 9999999999 is outside
        pairs = 10 -> pairs = 18446744073709551615: array.pairs
        requantize = 50 -> requantize = 51: lanes.requantize: 51 is outside [1, 50]
        gelu = 50 -> gelu = 51: lanes.gelu: 51 is outside [1, 50]
        residual = 768 -> residual = 0: buffers.residual: 0 is outside
        residual = 768 -> residual = 5000000000: buffers.residual: 5000000000 is outside
        mode = "nibble" -> mode = "magic": unknown variant `magic`
        board = "zcu102" -> board = "kv260": board: "kv260" is not the given board
        drain = -> drains = : margins.drains: no such kernel; known: fetch, load
        lut = 12 -> lut = -101: margins.drain.lut: -101 is outside [-100, 1000]
        ff = -3 -> ff = 1001: margins.drain.ff: 1001 is outside [-100, 1000]
        ff = -3 -> dsp = -3: unknown field `dsp`
    "#;
    let board = Board::from_toml(&read("python/quasar_rt/boards/zcu102")).unwrap();
    let margins = "\n[margins]\ndrain = { lut = 12, ff = -3 }\n";
    refuses(&(read("fpga/configs/zcu102") + margins), changes, |text| {
        Hardware::from_toml(text, board.clone())
    });
}
