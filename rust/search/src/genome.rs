//! Genomes: their structure, many of them in one buffer, and sets of them.
//!
//! Depends on [`crate::space`] and [`quasar_core::error`].

use quasar_core::error::{Error, Result};

use crate::space::{Gene, Granularity, Space};

/// The structure of a genome: the number of choices of each gene, and the number of genes that
/// count at each depth.
///
/// Invariant: two leading genes (embed and depth) that every genome uses; each depth uses at least
/// as many genes as the one before. In a canonical genome the genes that do not count (those of
/// blocks beyond the depth) are 0, so a network has one canonical genome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genotype {
    choices: Vec<u8>,
    /// True for genes that are fractions of 8-bit rows; the others are sizes.
    widths: Vec<bool>,
    used: Vec<usize>,
    /// Places in a block of the genes of each part: [`Self::parts`].
    parts: Vec<Vec<usize>>,
}

impl Genotype {
    /// Returns the structure of a space's genomes.
    pub fn of(space: &Space) -> Self {
        Self {
            choices: (0..space.genes())
                .map(|gene| space.choices_of(gene) as u8)
                .collect(),
            widths: (0..space.genes())
                .map(|gene| matches!(space.gene(gene), Gene::EightBit(..)))
                .collect(),
            used: space
                .choices
                .depth
                .iter()
                .map(|depth| 2 + depth * space.block_genes())
                .collect(),
            parts: match space.eight_bit_per {
                Granularity::Block => vec![vec![0, 1, 2]],
                // Heads with q, k, v and proj; the MLP ratio with fc1 and fc2.
                Granularity::Matrix => vec![vec![0, 2, 3, 4, 5], vec![1, 6, 7]],
            },
        }
    }

    /// Returns the parts of a block, each a list of its genes' places in the block: what a part
    /// adds to the cost and to an additive score depends on no other gene of a block.
    pub fn parts(&self) -> &[Vec<usize>] {
        &self.parts
    }

    /// Returns the number of genes of a block.
    pub fn block_genes(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }

    /// Returns the number of blocks of the deepest network.
    pub fn blocks(&self) -> usize {
        (self.genes() - 2) / self.block_genes()
    }

    /// Returns the choice of embed, the choice of depth and the number of blocks of every shape.
    pub fn shapes(&self) -> Vec<(usize, usize, usize)> {
        let blocks = |depth: usize| (self.used[depth] - 2) / self.block_genes();
        let depths = |embed| (0..self.used.len()).map(move |depth| (embed, depth, blocks(depth)));
        (0..self.choices[0].into()).flat_map(depths).collect()
    }

    /// Returns a canonical genome with the first choice of every gene of its blocks.
    pub fn with(&self, embed: usize, depth: usize) -> Vec<u8> {
        let mut genome = vec![0; self.genes()];
        (genome[0], genome[1]) = (embed as u8, depth as u8);
        genome
    }

    /// Writes the genes of a part of a block.
    pub fn place(&self, genome: &mut [u8], block: usize, part: usize, genes: &[u8]) {
        let first = 2 + block * self.block_genes();
        for (place, &gene) in self.parts[part].iter().zip(genes) {
            genome[first + place] = gene;
        }
    }

    /// Returns the number of choices of each gene.
    pub fn choices(&self) -> &[u8] {
        &self.choices
    }

    /// Returns whether a gene is a fraction of 8-bit rows, and not a size.
    pub fn is_width(&self, gene: usize) -> bool {
        self.widths[gene]
    }

    /// Returns the number of genes of a genome.
    pub fn genes(&self) -> usize {
        self.choices.len()
    }

    /// Returns the number of leading genes that count in a valid genome.
    pub fn used(&self, genome: &[u8]) -> usize {
        self.used[genome[1] as usize]
    }

    /// Sets the genes that do not count to 0. The genome must be valid.
    pub fn canonicalize(&self, genome: &mut [u8]) {
        let used = self.used(genome);
        genome[used..].fill(0);
    }

    /// Returns the number of canonical genomes, `u64::MAX` if there are more.
    pub fn size(&self) -> u64 {
        let product = |genes: &[u8]| {
            genes
                .iter()
                .fold(1u64, |n, &choices| n.saturating_mul(u64::from(choices)))
        };
        let deep = self.used.iter().fold(0u64, |n, &used| {
            n.saturating_add(product(&self.choices[2..used]))
        });
        deep.saturating_mul(u64::from(self.choices[0]))
    }

    /// Iterates over every canonical genome, [`Self::size`] of them, so for small spaces only.
    pub fn all(&self) -> Vec<u8> {
        let mut flat = Vec::new();
        let mut genome = vec![0; self.genes()];
        loop {
            flat.extend_from_slice(&genome);
            // Counts up over the genes that count, then the depth, then embed.
            let used = self.used(&genome);
            let counted = (2..used).rev().chain([1, 0]);
            let Some(gene) =
                counted
                    .map(|gene| (gene, self.choices[gene]))
                    .find_map(|(gene, choices)| {
                        if genome[gene] + 1 < choices {
                            Some(gene)
                        } else {
                            genome[gene] = 0;
                            None
                        }
                    })
            else {
                return flat;
            };
            genome[gene] += 1;
        }
    }

    /// Refuses a genome that has the wrong length or an index beyond its gene's choices, or that is
    /// not canonical.
    ///
    /// # Errors
    /// [`Error::InvalidValue`].
    pub fn check(&self, genome: &[u8]) -> Result<()> {
        let choices = &self.choices;
        if genome.len() != choices.len() {
            return Err(Error::InvalidValue(format!(
                "a genome has {} genes; this space's have {}",
                genome.len(),
                choices.len()
            )));
        }
        if let Some(at) = (0..choices.len()).find(|&at| genome[at] >= choices[at]) {
            return Err(Error::InvalidValue(format!(
                "gene {at} of a genome is choice {}; it has {} choices",
                genome[at], choices[at]
            )));
        }
        if genome[self.used(genome)..].iter().any(|&gene| gene != 0) {
            return Err(Error::InvalidValue(
                "a genome is not canonical: genes of unused blocks must be 0 (Space.canonical sets them)".into(),
            ));
        }
        Ok(())
    }
}

/// Genomes of equal length in one buffer: the input of an accuracy source.
#[derive(Clone, Copy, Debug)]
pub struct Genomes<'a> {
    flat: &'a [u8],
    genes: usize,
}

impl<'a> Genomes<'a> {
    /// Wraps `flat`, which holds whole genomes of `genes` genes.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it does not.
    pub fn new(flat: &'a [u8], genes: usize) -> Result<Self> {
        if genes == 0 || !flat.len().is_multiple_of(genes) {
            return Err(Error::InvalidValue(format!(
                "{} bytes are no whole number of genomes of {genes} genes",
                flat.len()
            )));
        }
        Ok(Self { flat, genes })
    }

    /// Returns the number of genomes.
    pub fn len(&self) -> usize {
        self.flat.len() / self.genes
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flat.is_empty()
    }

    /// Returns all genes, row-major.
    pub fn flat(&self) -> &'a [u8] {
        self.flat
    }

    /// Iterates over the genomes.
    pub fn rows(&self) -> std::slice::ChunksExact<'a, u8> {
        self.flat.chunks_exact(self.genes)
    }
}

/// An ordered set of genomes; each has a number, in order of insertion.
///
/// Open addressing over one flat buffer: no allocation for a genome, and the order does not depend
/// on hash values.
#[derive(Clone, Debug)]
pub struct GenomeSet {
    genes: usize,
    flat: Vec<u8>,
    /// A genome's hash above, its number plus one below; 0 is free. A power of two, at most half
    /// full.
    slots: Vec<(u32, u32)>,
}

impl GenomeSet {
    /// Returns an empty set of genomes of `genes` genes.
    pub fn new(genes: usize) -> Self {
        Self {
            genes,
            flat: Vec::new(),
            slots: vec![(0, 0); 64],
        }
    }

    /// Returns the number of genomes.
    pub fn len(&self) -> usize {
        self.flat.len() / self.genes
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flat.is_empty()
    }

    /// Returns the genome with this number.
    pub fn get(&self, id: u32) -> &[u8] {
        &self.flat[id as usize * self.genes..][..self.genes]
    }

    /// Returns the genome's number, if the set has it.
    pub fn find(&self, genome: &[u8]) -> Option<u32> {
        self.slot(genome, hash(genome)).err()
    }

    /// Adds a genome; returns its number and whether it is new.
    pub fn insert(&mut self, genome: &[u8]) -> (u32, bool) {
        let hash = hash(genome);
        match self.slot(genome, hash) {
            Err(id) => (id, false),
            Ok(slot) => {
                let id = self.len() as u32;
                self.flat.extend_from_slice(genome);
                self.slots[slot] = (hash, id + 1);
                if 2 * self.len() > self.slots.len() {
                    self.grow();
                }
                (id, true)
            }
        }
    }

    /// Removes all genomes; keeps the memory.
    pub fn clear(&mut self) {
        self.flat.clear();
        self.slots.fill((0, 0));
    }

    /// Returns the free slot for a genome, or the genome's number if the set has it.
    fn slot(&self, genome: &[u8], hash: u32) -> Result<usize, u32> {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.slots[slot] {
                (_, 0) => return Ok(slot),
                (other, id) if other == hash && self.get(id - 1) == genome => return Err(id - 1),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn grow(&mut self) {
        let size = 2 * self.slots.len();
        let old = std::mem::replace(&mut self.slots, vec![(0, 0); size]);
        for (hash, id) in old.into_iter().filter(|slot| slot.1 != 0) {
            let mut slot = hash as usize & (size - 1);
            while self.slots[slot].1 != 0 {
                slot = (slot + 1) & (size - 1);
            }
            self.slots[slot] = (hash, id);
        }
    }
}

/// Hashes eight genes a multiplication. Only the hash's evenness matters; no result depends on it.
fn hash(genome: &[u8]) -> u32 {
    let (words, rest) = genome.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let state = words
        .iter()
        .chain(std::iter::once(&last))
        .fold(0u64, |state, word| {
            (state.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
    (state ^ (state >> 32)) as u32
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Returns a genotype for tests: embeddings, depths, and blocks of equal genes, the last of
    /// which is a width.
    pub fn toy(embed: u8, depths: &[usize], block: &[u8]) -> Genotype {
        let mut choices = vec![embed, depths.len() as u8];
        let mut widths = vec![false; 2];
        for _ in 0..*depths.last().unwrap() {
            choices.extend_from_slice(block);
            widths.extend((1..=block.len()).map(|gene| gene == block.len()));
        }
        Genotype {
            choices,
            widths,
            used: depths.iter().map(|depth| 2 + depth * block.len()).collect(),
            parts: vec![(0..block.len()).collect()],
        }
    }

    proptest! {
        #[test]
        fn a_set_numbers_genomes_in_order(
            genomes in proptest::collection::vec(proptest::collection::vec(0u8..3, 5), 0..400),
        ) {
            let mut set = GenomeSet::new(5);
            let mut expected: HashMap<Vec<u8>, u32> = HashMap::new();
            for genome in &genomes {
                let next = expected.len() as u32;
                let known = expected.get(genome).copied();
                prop_assert_eq!(set.find(genome), known);
                prop_assert_eq!(set.insert(genome), (known.unwrap_or(next), known.is_none()));
                expected.entry(genome.clone()).or_insert(next);
            }
            prop_assert_eq!(set.len(), expected.len());
            for (genome, id) in expected {
                prop_assert_eq!(set.get(id), &genome[..]);
            }
        }
    }

    #[test]
    fn genomes_are_checked() {
        let toy = toy(3, &[1, 2], &[2, 2]);
        assert!(toy.check(&[2, 1, 1, 1, 1, 1]).is_ok());
        for (genome, part) in [
            (&[0u8, 0, 0][..], "3 genes"),
            (&[3, 0, 0, 0, 0, 0], "gene 0 of a genome is choice 3"),
            (&[0, 0, 1, 1, 1, 0], "not canonical"),
        ] {
            let message = toy.check(genome).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let mut genome = [2, 0, 1, 1, 1, 1];
        toy.canonicalize(&mut genome);
        assert_eq!(genome, [2, 0, 1, 1, 0, 0]);
        assert!(Genomes::new(&[1, 2, 3], 2).is_err());
    }

    #[test]
    fn all_genomes_are_counted_and_canonical() {
        let toy = toy(3, &[1, 3], &[2, 2]);
        let flat = toy.all();
        let genomes = Genomes::new(&flat, toy.genes()).unwrap();
        assert_eq!(toy.size(), 3 * (4 + 64));
        assert_eq!(genomes.len() as u64, toy.size());
        let mut set = GenomeSet::new(toy.genes());
        for genome in genomes.rows() {
            toy.check(genome).unwrap();
            assert!(set.insert(genome).1, "{genome:?} comes twice");
        }
    }
}
