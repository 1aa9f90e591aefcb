//! Golden vectors of the oracle (`tools/vectors.py` writes them): every intermediate, on every tier
//! and several numbers of threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quasar_core::cpu::NEVER;
use quasar_core::network::supported_tiers;
use quasar_core::subnet::config::Config;
use quasar_core::trace::{TraceData, TraceTensor};
use quasar_core::{nibble_check, Executor, Network, Storage, Subnet};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

fn vectors() -> Vec<(PathBuf, PathBuf)> {
    let directory = std::env::var_os("QUASAR_VECTORS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors"),
        PathBuf::from,
    );
    let mut subnets: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "qvit"))
        .map(|path| (path.clone(), path.with_extension("safetensors")))
        .collect();
    subnets.sort();
    assert!(!subnets.is_empty(), "no vectors in {}", directory.display());
    subnets
}

/// Returns the values that the oracle expects of an intermediate, cut to the rows that an executor
/// computes.
fn expected(config: &Config, name: &str, view: &TensorView) -> TraceTensor {
    let mut shape = view.shape().to_vec();
    let last = format!("blocks.{}.", config.blocks.len() - 1);
    let needed = config.needed(config.blocks.len() - 1);
    let short =
        needed < config.tokens() && name.strip_prefix(&last).is_some_and(|part| part != "norm1");
    let mut data = match view.dtype() {
        Dtype::I8 => TraceData::I8(view.data().iter().map(|&v| v as i8).collect()),
        Dtype::I16 => TraceData::I16(
            view.data()
                .as_chunks()
                .0
                .iter()
                .map(|&v| i16::from_le_bytes(v))
                .collect(),
        ),
        Dtype::I32 => TraceData::I32(
            view.data()
                .as_chunks()
                .0
                .iter()
                .map(|&v| i32::from_le_bytes(v))
                .collect(),
        ),
        other => panic!("{name} has dtype {other:?}"),
    };
    match &mut data {
        TraceData::I8(data) if short && name.ends_with("qkv") => {
            let inner = shape[1] / 3;
            for row in data.chunks_exact_mut(shape[1]).skip(needed) {
                row[..inner].fill(0);
            }
        }
        TraceData::I8(data) if short => data.truncate(needed * shape[1]),
        TraceData::I16(data) if short => data.truncate(needed * shape[1]),
        _ => {}
    }
    if short && !name.ends_with("qkv") {
        shape[0] = needed;
    }
    TraceTensor { shape, data }
}

#[test]
fn every_tier_and_thread_count_gives_the_oracles_intermediates() {
    for (subnet_path, expected_path) in vectors() {
        let subnet =
            Subnet::load(&subnet_path).unwrap_or_else(|e| panic!("{}: {e}", subnet_path.display()));
        let bytes = std::fs::read(&expected_path)
            .unwrap_or_else(|e| panic!("{}: {e}", expected_path.display()));
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let image = golden.tensor("image").unwrap();
        for tier in supported_tiers() {
            for (storage, threads) in [
                (Storage::Unpacked, 1),
                (Storage::Unpacked, 2),
                (Storage::Unpacked, 3),
                (Storage::Packed, 1),
                (Storage::Packed, 2),
            ] {
                let path = subnet_path.display();
                let what = format!("{path}, {tier}, {threads} threads, {storage:?}");
                let network = Network::with_storage(&subnet, tier, storage).unwrap();
                let network = Arc::new(network);
                let executor = Executor::new(Arc::clone(&network), Some(threads)).unwrap();
                let trace = executor.trace(image.data(), &NEVER).unwrap();
                assert_eq!(trace.tensors().len() + 1, golden.len(), "{what}");
                for (name, tensor) in trace.tensors() {
                    let expected = expected(subnet.config(), name, &golden.tensor(name).unwrap());
                    assert_eq!(tensor.shape, expected.shape, "{what}: shape of {name}");
                    assert!(tensor.data == expected.data, "{what}: {name} differs");
                }
                let mut logits = vec![0; subnet.config().outputs()];
                for _ in 0..2 {
                    executor.run(image.data(), &mut logits).unwrap();
                    assert_eq!(
                        TraceData::I32(logits.clone()),
                        trace.tensor("logits").unwrap().data,
                        "{what}"
                    );
                }
            }
        }
    }
}

#[test]
fn nibbles_give_the_oracles_intermediates() {
    for (subnet_path, expected_path) in vectors() {
        let subnet = Subnet::load(&subnet_path).unwrap();
        let bytes = std::fs::read(&expected_path).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let image = golden.tensor("image").unwrap();
        let network = Network::new(&subnet, quasar_core::Tier::Scalar).unwrap();
        let trace = Executor::new(Arc::new(network), Some(1))
            .unwrap()
            .trace(image.data(), &NEVER)
            .unwrap();
        for check in nibble_check::check(&subnet, image.data(), &trace, &NEVER).unwrap() {
            assert!(check.values > 0, "{}: {check:?}", subnet_path.display());
            assert_eq!(check.differing, 0, "{}: {check:?}", subnet_path.display());
        }
    }
}
