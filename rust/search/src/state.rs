//! A search on disk: what it was told to do, and every score that it knows.
//!
//! Nothing else is needed, because a search is a function of these: a resumed one breeds the same genomes again and finds their scores
//! known. So a state has no population, generator or front that could disagree with the scores, and a search that is killed in the middle
//! of a generation loses only what it was not told. Depends on `nsga2`.
//!
//! The bytes are JSON and untrusted: sizes are bounded, unknown keys refused, every genome and score checked.

use std::path::Path;

use quasar_core::error::in_words;
use quasar_core::error::{Error, Result};
use quasar_core::subnet::file;
use serde::{Deserialize, Serialize};

use super::genome::{Genomes, Genotype};
use super::nsga2::{CostModel, Nsga2, Settings};

/// Bytes of a state, at most.
pub const MAX_BYTES: usize = 1 << 30;

const FORMAT: &str = "quasar_rt search state";
const VERSION: u32 = 1;
const DOCUMENT: &str = "search state";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: String,
    version: u32,
    /// Digests of the space and of what costs depend on, and the caller's name for the source of scores.
    space: String,
    hardware: String,
    source: String,
    population: usize,
    generations: usize,
    targets: Vec<f64>,
    seed: u64,
    oversample: usize,
    /// Genomes, two hexadecimal digits a gene, and their scores, in the order in which they became known.
    scores: Vec<(String, f64)>,
}

impl<C: CostModel> Nsga2<C> {
    /// The search as bytes, the same for the same settings and scores. `space` is the space's digest; `source` names what gives the
    /// scores (a checkpoint's digest, `"proxy"`).
    ///
    /// # Panics
    /// Never: every value of a state has a JSON form.
    pub fn to_bytes(&self, space: &str, source: &str) -> Vec<u8> {
        let settings = &self.settings;
        let scores = (0..self.known.len() as u32)
            .filter(|&id| !self.points[id as usize].score.is_nan())
            .map(|id| (hex(self.known.get(id)), self.points[id as usize].score))
            .collect();
        let state = State {
            format: FORMAT.into(),
            version: VERSION,
            space: space.into(),
            hardware: self.costs.digest(),
            source: source.into(),
            population: settings.population,
            generations: settings.generations,
            targets: settings.targets.clone(),
            seed: settings.seed,
            oversample: settings.oversample,
            scores,
        };
        let mut bytes = serde_json::to_vec(&state).expect("numbers, strings and lists");
        bytes.push(b'\n');
        bytes
    }

    /// Writes [`Self::to_bytes`] atomically: a temporary file beside it, then renamed over it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path, space: &str, source: &str) -> Result<()> {
        file::replace(path, &self.to_bytes(space, source)).map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// Goes on from [`Self::to_bytes`]: a search that asks for what the saved one would ask for next.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] for bytes that are no sound state; [`Error::OtherSearch`] names the first thing in which the saved search
    /// differs from this one; also as [`Nsga2::new`].
    pub fn resume(
        genotype: Genotype,
        costs: C,
        settings: Settings,
        space: &str,
        source: &str,
        bytes: &[u8],
    ) -> Result<Self> {
        let state = parse(bytes)?;
        let differs = |what: &'static str, saved: String, this: String| {
            if saved == this {
                Ok(())
            } else {
                Err(Error::other_search(what, &saved, &this))
            }
        };
        differs("space", state.space, space.into())?;
        differs("hardware", state.hardware, costs.digest())?;
        differs("source of scores", state.source, source.into())?;
        let numbers = [
            ("population", state.population, settings.population),
            (
                "number of generations",
                state.generations,
                settings.generations,
            ),
            ("oversample", state.oversample, settings.oversample),
        ];
        for (what, saved, this) in numbers {
            differs(what, saved.to_string(), this.to_string())?;
        }
        differs("seed", state.seed.to_string(), settings.seed.to_string())?;
        differs(
            "targets",
            format!("{:?}", state.targets),
            format!("{:?}", settings.targets),
        )?;
        let mut search = Self::new(genotype, costs, settings)?;
        let genes = search.genotype.genes();
        let mut flat = Vec::with_capacity(state.scores.len() * genes);
        let mut scores = Vec::with_capacity(state.scores.len());
        for (i, (genome, score)) in state.scores.into_iter().enumerate() {
            let genome = unhex(&genome, genes).ok_or_else(|| {
                Error::settings(
                    DOCUMENT,
                    format!("scores.{i}"),
                    format!("is not a genome of {genes} genes in hexadecimal"),
                )
            })?;
            flat.extend(genome);
            scores.push(score);
        }
        let genomes = Genomes::new(&flat, genes)?;
        search
            .remember(genomes, &scores)
            .map_err(|e| Error::settings(DOCUMENT, "scores", e.to_string()))?;
        if search.known.len() != scores.len() {
            return Err(Error::settings(DOCUMENT, "scores", "a genome comes twice"));
        }
        Ok(search)
    }
}

fn parse(bytes: &[u8]) -> Result<State> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLarge {
            what: "the search state".into(),
            size: bytes.len() as u64,
            limit: MAX_BYTES as u64,
            unit: "bytes",
        });
    }
    let state: State = serde_json::from_slice(bytes)
        .map_err(|e| Error::settings(DOCUMENT, "JSON", in_words(&e.to_string())))?;
    if state.format != FORMAT || state.version != VERSION {
        return Err(Error::settings(
            DOCUMENT,
            "format",
            format!(
                "is {:?} version {}; this build reads {FORMAT:?} version {VERSION}",
                state.format, state.version
            ),
        ));
    }
    Ok(state)
}

fn hex(genome: &[u8]) -> String {
    use std::fmt::Write;
    genome
        .iter()
        .fold(String::with_capacity(2 * genome.len()), |mut text, gene| {
            write!(text, "{gene:02x}").expect("a string takes any text");
            text
        })
}

fn unhex(text: &str, genes: usize) -> Option<Vec<u8>> {
    // One form for each genome: lower case, two digits a gene.
    let digits = text.as_bytes();
    if digits.len() != 2 * genes {
        return None;
    }
    let digit = |d: u8| match d {
        b'0'..=b'9' => Some(d - b'0'),
        b'a'..=b'f' => Some(d - b'a' + 10),
        _ => None,
    };
    digits
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::genome::tests::toy;
    use super::super::nsga2::tests::{run, score, search, settings, Double};
    use super::*;
    use proptest::prelude::*;

    fn genotype() -> Genotype {
        toy(3, &[6, 7, 8], &[2, 2, 5])
    }

    fn wanted() -> Settings {
        Settings {
            targets: vec![500.0],
            oversample: 2,
            ..settings(20, 8, 11)
        }
    }

    fn resume(bytes: &[u8]) -> Result<Nsga2<Double>> {
        let costs = Double {
            genotype: genotype(),
            room: 3000.0,
        };
        Nsga2::resume(genotype(), costs, wanted(), "space", "test", bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        /// Killed after any number of chunks, as often as you like.
        #[test]
        fn a_search_that_is_killed_and_resumed_is_the_same_search(
            limits in proptest::collection::vec((1usize..45, any::<bool>()), 1..20),
        ) {
            let mut whole = search(&genotype(), wanted(), 3000.0);
            run(&mut whole);
            let mut broken = search(&genotype(), wanted(), 3000.0);
            let mut asked = 0;
            for (limit, kill) in limits.iter().cycle() {
                let flat = broken.ask(Some(*limit));
                if flat.is_empty() {
                    break;
                }
                if *kill && asked < 1000 {
                    // What was asked but not told is lost.
                    asked += 1;
                    broken = resume(&broken.to_bytes("space", "test")).unwrap();
                    let again = broken.ask(Some(*limit));
                    prop_assert_eq!(&again, &flat);
                }
                let scores: Vec<f64> = flat
                    .chunks_exact(genotype().genes())
                    .map(|genome| score(&genotype(), genome))
                    .collect();
                broken.tell(&scores).unwrap();
            }
            prop_assert_eq!(whole.front(), broken.front());
            prop_assert_eq!(whole.history(), broken.history());
            prop_assert_eq!(whole.to_bytes("space", "test"), broken.to_bytes("space", "test"));
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(resume(&bytes).is_err());
        }
    }

    #[test]
    fn a_finished_search_resumes_without_asking() {
        let mut whole = search(&genotype(), wanted(), 3000.0);
        run(&mut whole);
        let bytes = whole.to_bytes("space", "test");
        let mut resumed = resume(&bytes).unwrap();
        assert!(resumed.ask(None).is_empty() && resumed.done());
        assert_eq!(resumed.population(), whole.population());
        assert_eq!(resumed.to_bytes("space", "test"), bytes);
    }

    #[test]
    fn another_search_is_refused_by_name() {
        let bytes = search(&genotype(), wanted(), 3000.0).to_bytes("space", "test");
        let text = String::from_utf8(bytes).unwrap();
        for (old, new, what) in [
            (
                "\"space\":\"space\"",
                "\"space\":\"other\"",
                "another space",
            ),
            ("double 3000", "double 4000", "another hardware"),
            (
                "\"source\":\"test\"",
                "\"source\":\"x\"",
                "another source of scores",
            ),
            (
                "\"population\":20",
                "\"population\":21",
                "another population: 21, not 20",
            ),
            (
                "\"generations\":8",
                "\"generations\":9",
                "another number of generations",
            ),
            (
                "[500.0]",
                "[500.5]",
                "another targets: [500.5], not [500.0]",
            ),
            ("\"seed\":11", "\"seed\":12", "another seed: 12, not 11"),
            ("\"oversample\":2", "\"oversample\":1", "another oversample"),
        ] {
            let other = text.replacen(old, new, 1);
            assert_ne!(other, text, "{old}");
            let error = resume(other.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), "OtherSearch");
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn unsound_states_are_refused() {
        let mut search = search(&genotype(), wanted(), 3000.0);
        let asked = search.ask(Some(2));
        search.tell(&[0.1 + 0.2, 1e-300]).unwrap();
        let text = String::from_utf8(search.to_bytes("space", "test")).unwrap();
        let first = hex(&asked[..genotype().genes()]);
        let second = hex(&asked[genotype().genes()..]);
        let resumed = resume(text.as_bytes()).unwrap();
        assert_eq!(resumed.to_bytes("space", "test"), text.as_bytes());
        for (old, new, part) in [
            ("\"version\":1", "\"version\":2", "version 2"),
            ("search state", "something", "format"),
            ("{", "[", "JSON"),
            ("\"seed\":11", "\"seed\":11,\"sed\":1", "unknown field"),
            (&first, "00", "scores.0: is not a genome"),
            (
                &first,
                &first.replace("00", "0G"),
                "scores.0: is not a genome",
            ),
            (&first, &first.replacen("00", "03", 1), "it has 3 choices"),
            (&second, &first, "scores: "),
            ("1e-300", "1e999", "JSON"),
            ("1e-300", "null", "JSON"),
        ] {
            let bad = text.replacen(old, new, 1);
            assert_ne!(bad, text, "{old}");
            let error = resume(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), "InvalidSettings");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
