use super::*;

#[test]
fn rams_are_counted_as_the_tools_map_them() {
    let count = |ram, words, bits, enables| {
        let count = RamCount::of(ram, Family::UltraScalePlus, words, bits, enables);
        (count.lut, count.bram18, count.uram)
    };
    assert_eq!(count(Ram::Block, 1576, 24, false), (0, 3, 0));
    assert_eq!(count(Ram::Block, 512, 36, false), (0, 1, 0));
    assert_eq!(count(Ram::Block, 513, 36, false), (0, 2, 0));
    assert_eq!(count(Ram::Block, 512, 32, true), (0, 1, 0));
    assert_eq!(count(Ram::Block, 4097, 9, false), (0, 3, 0));
    assert_eq!(count(Ram::Ultra, 4096, 72, false), (0, 0, 1));
    assert_eq!(count(Ram::Lut, 50, 96, false), (112, 0, 0));
    assert_eq!(count(Ram::Lut, 32, 28, false), (16, 0, 0));
}
