//! Prints how many changes of memory the check misses: `detection [MILLIONS]` of each kind.
//!
//! A change is made to a transfer of weights, to the logits of a frame and to a command. A check
//! that were a random function would miss one change in 4.3 billion.

use std::time::Instant;

use quasar_accelerator::isa::{check, FIELD_WORDS};

/// A generator of random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Returns two different numbers below a bound.
    fn two(&mut self, bound: usize) -> (usize, usize) {
        let (a, b) = (self.below(bound), self.below(bound - 1));
        (a, b + usize::from(b >= a))
    }
}

/// Exchanges two parts of `size` bytes.
fn swap(bytes: &mut [u8], (a, b): (usize, usize), size: usize) {
    for i in 0..size {
        bytes.swap(a * size + i, b * size + i);
    }
}

/// A change of memory.
type Change = fn(&mut Random, &mut [u8]);

fn flip(random: &mut Random, bytes: &mut [u8]) {
    let bit = random.below(8 * bytes.len());
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// Changes random bits of the `length` bits from a random one on, at least its first and its last.
fn burst(random: &mut Random, bytes: &mut [u8], length: usize) {
    let first = random.below(8 * bytes.len() - length + 1);
    for i in 0..length {
        if i == 0 || i + 1 == length || random.next() & 1 == 1 {
            bytes[(first + i) / 8] ^= 1 << ((first + i) % 8);
        }
    }
}

const CHANGES: &[(&str, Change)] = &[
    ("two flipped bits", |random, bytes| {
        let (a, b) = random.two(8 * bytes.len());
        bytes[a / 8] ^= 1 << (a % 8);
        bytes[b / 8] ^= 1 << (b % 8);
    }),
    ("the same bit of two words", |random, bytes| {
        let (a, b) = random.two(bytes.len() / 4);
        let bit = random.below(32);
        for word in [a, b] {
            bytes[4 * word + bit / 8] ^= 1 << (bit % 8);
        }
    }),
    ("3 to 8 flipped bits", |random, bytes| {
        for _ in 0..3 + random.below(6) {
            flip(random, bytes);
        }
    }),
    ("a burst of at most 32 bits", |random, bytes| {
        let length = 1 + random.below(32);
        burst(random, bytes, length);
    }),
    ("a burst of 33 to 128 bits", |random, bytes| {
        let length = 33 + random.below(96);
        burst(random, bytes, length);
    }),
    ("two words exchanged", |random, bytes| {
        let places = random.two(bytes.len() / 4);
        swap(bytes, places, 4);
    }),
    (
        "words 31 apart, or the first and the last, exchanged",
        |random, bytes| {
            let words = bytes.len() / 4;
            let distance = 31.min(words - 1);
            let first = random.below(words - distance);
            swap(bytes, (first, first + distance), 4);
        },
    ),
    ("two beats of 16 bytes exchanged", |random, bytes| {
        let beats = bytes.len() / 16;
        if beats > 1 {
            let places = random.two(beats);
            swap(bytes, places, 16);
        }
    }),
    ("a word instead of its neighbour", |random, bytes| {
        let word = random.below(bytes.len() / 4 - 1);
        bytes.copy_within(4 * word..4 * word + 4, 4 * word + 4);
    }),
    ("all from a word on one word late", |random, bytes| {
        let (word, end) = (random.below(bytes.len() / 4 - 1), bytes.len() - 4);
        bytes.copy_within(4 * word..end, 4 * word + 4);
    }),
    ("zeros to the end", |random, bytes| {
        let word = random.below(bytes.len() / 4);
        bytes[4 * word..].fill(0);
    }),
    ("other bytes in one cache line", |random, bytes| {
        let line = random.below(bytes.len().div_ceil(64));
        let end = bytes.len().min(64 * line + 64);
        bytes[64 * line..end].fill_with(|| random.next() as u8);
    }),
    ("one bit stuck in every word", |random, bytes| {
        let bit = random.below(32);
        for word in bytes.chunks_exact_mut(4) {
            word[bit / 8] |= 1 << (bit % 8);
        }
    }),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let millions: f64 = std::env::args()
        .nth(1)
        .map_or(Ok(1.0), |word| word.parse())?;
    let count = (1e6 * millions) as u64;
    let mut random = Random(1);
    let weights: Vec<u8> = (0..2048).map(|_| random.next() as u8).collect();
    let logits: Vec<u8> = (0..10)
        .map(|class| class * 731 - 4000)
        .chain([0, 0])
        .flat_map(i32::to_le_bytes)
        .collect();
    let command: Vec<u8> = (0..4 * FIELD_WORDS)
        .map(|_| (random.next() & random.next()) as u8)
        .collect();
    println!("| change | of 2 KiB of weights | of 10 logits | of a command |");
    println!("|---|---|---|---|");
    for (name, change) in CHANGES {
        let missed = [&weights, &logits, &command].map(|bytes| {
            let stated = check(bytes);
            let mut missed = 0;
            let mut changes = 0;
            let mut changed = bytes.clone();
            for _ in 0..count {
                changed.copy_from_slice(bytes);
                change(&mut random, &mut changed);
                if changed != *bytes {
                    changes += 1;
                    missed += u64::from(check(&changed) == stated);
                }
            }
            format!("{missed} of {changes} missed")
        });
        println!("| {name} | {} |", missed.join(" | "));
    }
    let large = vec![0x5a; 64 << 20];
    let start = Instant::now();
    let found = check(&large);
    let rate = large.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("\n{rate:.1} GB/s on this host (check {found:#010x})");
    Ok(())
}
