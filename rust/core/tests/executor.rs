//! The executor's interface: batches, threads, cancelling, profile, errors. Its numbers are in
//! `golden.rs`.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use quasar_core::cpu::NEVER;
use quasar_core::logits::{best, first};
use quasar_core::network::supported_tiers;
use quasar_core::pool::MAX_THREADS;
use quasar_core::preprocess::ImageView;
use quasar_core::{Executor, Network, Subnet, Tier};

const VECTORS: [&str; 4] = ["token", "mean", "mean-after-norm", "token-pair"];

fn subnet(name: &str) -> Subnet {
    Subnet::load(
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/vectors/{name}.qvit")),
    )
    .unwrap()
}

fn executor(name: &str, threads: usize) -> Executor {
    Executor::new(
        Arc::new(Network::new(&subnet(name), Tier::best()).unwrap()),
        Some(threads),
    )
    .unwrap()
}

/// Returns the kind of a call's error.
fn kind<T: std::fmt::Debug>(result: quasar_core::error::Result<T>) -> &'static str {
    result.unwrap_err().kind()
}

/// Images as the network sees them, and views of them.
fn images(executor: &Executor, count: usize) -> Vec<Vec<u8>> {
    let bytes = executor.network().config().image.bytes();
    (0..count)
        .map(|n| (0..bytes).map(|i| (i * (n + 3) * 11 % 256) as u8).collect())
        .collect()
}

fn views<'a>(executor: &Executor, images: &'a [Vec<u8>]) -> Vec<ImageView<'a>> {
    let size = executor.network().config().image;
    images
        .iter()
        .map(|p| ImageView::packed(p, size.height, size.width, size.channels).unwrap())
        .collect()
}

#[test]
fn batches_and_single_frames_give_the_same_bits_with_any_number_of_threads() {
    for name in VECTORS {
        let reference = executor(name, 1);
        let classes = reference.network().config().outputs();
        let images = images(&reference, 9);
        let mut expected = vec![0; 9 * classes];
        for (image, logits) in images.iter().zip(expected.chunks_mut(classes)) {
            reference.run(image, logits).unwrap();
        }
        // More threads than tokens, too.
        for threads in [1, 2, 3, 7, 40] {
            let executor = executor(name, threads);
            assert_eq!(executor.threads(), threads);
            let mut logits = vec![1; 9 * classes];
            executor
                .infer_batch(&views(&executor, &images), &mut logits, &NEVER)
                .unwrap();
            assert_eq!(logits, expected, "{name}, batch, {threads} threads");
            for ((image, view), expected) in images
                .iter()
                .zip(views(&executor, &images))
                .zip(expected.chunks(classes))
            {
                let mut logits = vec![1; classes];
                executor.run(image, &mut logits).unwrap();
                assert_eq!(logits, expected, "{name}, {threads} threads");
                executor.infer(&view, &mut logits, &NEVER).unwrap();
                assert_eq!(logits, expected, "{name}, {threads} threads, preprocessed");
            }
        }
    }
}

#[test]
fn large_images_are_prepared_between_frames_of_other_threads() {
    let executor = executor("mean", MAX_THREADS);
    let side = 1024; // prepared on all cores
    let channels = executor.network().config().image.channels;
    let large: Vec<u8> = (0..side * side * channels)
        .map(|i| (i % 251) as u8)
        .collect();
    let large = ImageView::packed(&large, side, side, channels).unwrap();
    let mut expected = Vec::new();
    let mut preprocessor = executor.network().preprocessor();
    preprocessor.run(&large, &mut expected).unwrap();

    let classes = executor.network().config().outputs();
    let small = images(&executor, 1);
    let mut logits = vec![0; classes];
    executor.run(&small[0], &mut logits).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut preprocessor = executor.network().preprocessor();
                let mut pixels = Vec::new();
                for _ in 0..8 {
                    executor
                        .prepare(&mut preprocessor, &large, &mut pixels)
                        .unwrap();
                    assert_eq!(pixels, expected);
                }
            });
            scope.spawn(|| {
                let mut out = vec![0; classes];
                for _ in 0..50 {
                    let view = views(&executor, &small)[0];
                    executor.infer(&view, &mut out, &NEVER).unwrap();
                    assert_eq!(out, logits);
                }
            });
        }
    });
}

#[test]
fn arguments_that_do_not_fit_are_errors() {
    let executor = executor("mean", 2);
    let classes = executor.network().config().classes.len();
    let images = images(&executor, 1);
    let views = views(&executor, &images);
    let mut logits = vec![0; classes];
    let cancel = AtomicBool::new(false);
    let short = executor.run(&images[0][1..], &mut logits);
    assert_eq!(kind(short), "InvalidImage");
    assert_eq!(kind(executor.trace(&[], &NEVER)), "InvalidImage");
    for result in [
        executor.run(&images[0], &mut logits[1..]),
        executor.infer(&views[0], &mut [], &NEVER).map(|_| ()),
        executor.infer_batch(&views, &mut [0; 1], &cancel),
    ] {
        assert_eq!(kind(result), "InvalidValue");
    }
    for threads in [0, MAX_THREADS + 1] {
        let network = Arc::clone(executor.network());
        assert_eq!(kind(Executor::new(network, Some(threads))), "InvalidValue");
    }
}

#[test]
fn tiers_that_this_cpu_lacks_are_errors_that_name_those_it_has() {
    let subnet = subnet("mean");
    for tier in Tier::ALL {
        match Network::new(&subnet, tier) {
            Ok(network) => assert_eq!(network.tier(), tier),
            Err(error) => {
                assert!(supported_tiers().all(|t| t != tier));
                assert_eq!(error.kind(), "UnsupportedTier");
                assert!(error.to_string().contains("scalar"), "{error}");
            }
        }
    }
}

#[test]
fn probabilities_sum_to_one_and_order_like_logits() {
    let logits = [3, -7, 3, i32::MAX, i32::MIN];
    let classes = |logits: &[i32], k: usize| -> Vec<usize> {
        best(logits, 1e-9, k).iter().map(|best| best.0).collect()
    };
    let all = best(&logits, 1e-9, 9);
    let p: Vec<f64> = all.iter().map(|best| best.1).collect();
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    assert!(p[0] > p[1] && p[2] > p[3] && p[3] > p[4]);
    assert_eq!(p[1].to_bits(), p[2].to_bits());
    assert_eq!(classes(&logits, 9), [3, 0, 2, 1, 4]);
    assert_eq!(best(&logits, 1e-9, 3), all[..3]);
    assert!(best(&logits, 1e-9, 0).is_empty() && best(&[], 1e-9, 5).is_empty());
    assert_eq!(
        (first(&logits), first(&logits[..3]), first(&[])),
        (Some(3), Some(0), None)
    );
    let many: Vec<i32> = (0..1000).map(|i| i * 7919 % 101).collect();
    let mut sorted: Vec<usize> = (0..1000).collect();
    sorted.sort_by_key(|&class| std::cmp::Reverse(many[class]));
    for k in [1, 5, 37, 999, 1000, 1001, usize::MAX] {
        assert_eq!(classes(&many, k), sorted[..k.min(1000)]);
    }
    assert!((best(&[5], 1e300, 1)[0].1 - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_cancelled_frame_ends_and_leaves_nothing_behind() {
    for threads in [1, 3] {
        let executor = executor("token", threads);
        let images = images(&executor, 1);
        let view = views(&executor, &images)[0];
        let classes = executor.network().config().outputs();
        let (mut expected, mut logits) = (vec![0; classes], vec![0; classes]);
        executor.infer(&view, &mut expected, &NEVER).unwrap();

        let cancel = AtomicBool::new(true);
        let kinds = [
            executor.infer(&view, &mut logits, &cancel).unwrap_err(),
            executor.profile(&view, &cancel).unwrap_err(),
            executor.trace(&images[0], &cancel).unwrap_err(),
        ]
        .map(|e| e.kind());
        assert_eq!(kinds, ["Interrupted"; 3]);

        executor.infer(&view, &mut logits, &NEVER).unwrap();
        assert_eq!(logits, expected);
    }
}
