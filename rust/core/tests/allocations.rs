//! A warm frame allocates nothing: the memory that a board needs is known after the first one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use quasar_core::cpu::NEVER;
use quasar_core::preprocess::ImageView;
use quasar_core::{Executor, Network, Subnet, Tier};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is the system allocator's, with the caller's own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `alloc` got the pointer from the
        // system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// Without the standard harness, whose main thread allocates while a test runs.
fn main() {
    for (name, threads) in ["token", "mean", "mean-after-norm"]
        .into_iter()
        .flat_map(|name| [1, 2, 3].map(|threads| (name, threads)))
    {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/vectors/{name}.qvit"));
        let network = Arc::new(Network::new(&Subnet::load(path).unwrap(), Tier::best()).unwrap());
        let channels = network.config().image.channels;
        let mut logits = vec![0; network.config().classes.len()];
        let executor = Executor::new(network, Some(threads)).unwrap();
        let pixels = vec![7; 30 * 40 * channels];
        let image = ImageView::packed(&pixels, 30, 40, channels).unwrap();
        for _ in 0..3 {
            executor.infer(&image, &mut logits, &NEVER).unwrap();
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..100 {
            executor.infer(&image, &mut logits, &NEVER).unwrap();
        }
        assert_eq!(
            ALLOCATIONS.load(Ordering::Relaxed) - before,
            0,
            "{name}, {threads} threads"
        );
    }
    println!("test warm_frames_allocate_nothing ... ok");
}
