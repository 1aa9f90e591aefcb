//! Preprocessing against Pillow and torchvision (`tools/resize_vectors.py` wrote the vectors), and
//! on unusable images.

use std::path::Path;

use quasar_core::preprocess::{ImageView, Preprocessor};
use quasar_core::subnet::config::Config;
use safetensors::SafeTensors;
use serde_json::{json, Value};

/// Returns a config that takes images of this size.
fn config(height: usize, width: usize, channels: usize, resize: &Value) -> Config {
    let config = json!({
        "name": "preprocess",
        "image": {"height": height, "width": width, "channels": channels},
        "patch": {"kernel": 1, "stride": 4096, "pad": 0, "pad_value": 0},
        "embed": 1, "prefix_tokens": 0,
        "blocks": [{"heads": 1, "head_dim": 1, "hidden": 1, "fc1_zero_point": 0}],
        "pool": "mean", "classes": ["a"], "logit_scale": 1.0,
        "preprocess": {"resize": resize}, "trained": false, "provenance": {},
    });
    Config::from_json(&config.to_string()).unwrap()
}

#[test]
fn resizing_and_cropping_equal_pillow_and_torchvision() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/resize.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let vectors = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases: Vec<Value> =
        serde_json::from_str(&header.metadata().as_ref().unwrap()["cases"]).unwrap();
    assert_eq!(vectors.len(), 2 * cases.len());
    for (i, resize) in cases.iter().enumerate() {
        let image = vectors.tensor(&format!("{i}.image")).unwrap();
        let expected = vectors.tensor(&format!("{i}.expected")).unwrap();
        let (&[h, w, c], &[height, width, channels]) = (image.shape(), expected.shape()) else {
            panic!("shapes")
        };
        let mut preprocessor = Preprocessor::new(&config(height, width, channels, resize));
        let mut out = Vec::new();
        preprocessor
            .run(&ImageView::packed(image.data(), h, w, c).unwrap(), &mut out)
            .unwrap();
        assert_eq!(out, expected.data(), "case {i}: {h} x {w} x {c}, {resize}");

        // The same image with gaps between its rows.
        let gap = 5;
        let spaced: Vec<u8> = image
            .data()
            .chunks(w * c)
            .flat_map(|row| row.iter().copied().chain([99; 5]))
            .collect();
        let view = ImageView::new(&spaced, h, w, c, w * c + gap).unwrap();
        preprocessor.run(&view, &mut out).unwrap();
        assert_eq!(out, expected.data(), "case {i} with a stride");
    }
}

#[test]
fn a_preprocessor_serves_images_of_changing_size() {
    let resize = json!({"mode": "shorter", "size": [8], "filter": "bicubic"});
    let config = config(8, 8, 1, &resize);
    let mut shared = Preprocessor::new(&config);
    let pixels: Vec<u8> = (0..3 * 40 * 40).map(|i| (i * 7 % 256) as u8).collect();
    let (mut out, mut alone) = (Vec::new(), Vec::new());
    for (h, w, c) in [
        (40, 20, 1),
        (9, 33, 3),
        (8, 8, 1),
        (40, 40, 3),
        (40, 20, 1),
        (1, 1, 3),
    ] {
        let view = ImageView::packed(&pixels, h, w, c).unwrap();
        shared.run(&view, &mut out).unwrap();
        Preprocessor::new(&config).run(&view, &mut alone).unwrap();
        assert_eq!(out, alone, "{h} x {w} x {c}");
    }
}

#[test]
fn unusable_images_are_errors() {
    let kinds = [
        ImageView::packed(&[], 0, 4, 1).unwrap_err().kind(),
        ImageView::packed(&[], 4, 0, 3).unwrap_err().kind(),
        ImageView::packed(&[0; 8], 2, 2, 2).unwrap_err().kind(),
        ImageView::packed(&[0; 8], 3, 3, 1).unwrap_err().kind(),
        ImageView::new(&[0; 8], 2, 4, 1, 3).unwrap_err().kind(),
        ImageView::new(&[0; 8], 2, 4, 1, usize::MAX)
            .unwrap_err()
            .kind(),
        ImageView::packed(&vec![0; 65_501], 1, 65_501, 1)
            .unwrap_err()
            .kind(),
        ImageView::packed(&[], usize::MAX, usize::MAX, 3)
            .unwrap_err()
            .kind(),
    ];
    assert!(kinds.iter().all(|&k| k == "InvalidImage"), "{kinds:?}");

    let view = ImageView::packed(&[0; 12], 3, 4, 1).unwrap();
    let mut out = Vec::new();
    let mut preprocessor = Preprocessor::new(&config(4, 4, 1, &json!({"mode": "none"})));
    assert_eq!(
        preprocessor.run(&view, &mut out).unwrap_err().kind(),
        "InvalidImage"
    );
    let resize = json!({"mode": "shorter", "size": [5], "filter": "box"});
    let mut preprocessor = Preprocessor::new(&config(5, 7, 1, &resize));
    assert_eq!(
        preprocessor.run(&view, &mut out).unwrap_err().kind(),
        "InvalidImage"
    );
}

#[test]
fn a_strip_that_resizing_would_make_enormous_is_an_error() {
    let resize = json!({"mode": "shorter", "size": [8192], "filter": "nearest"});
    let mut preprocessor = Preprocessor::new(&config(4, 4, 1, &resize));
    let mut out = Vec::new();
    for (width, fits) in [(2048, true), (2049, false), (65_500, false)] {
        let pixels = vec![1; width];
        for (h, w) in [(1, width), (width, 1)] {
            let view = ImageView::packed(&pixels, h, w, 1).unwrap();
            match preprocessor.run(&view, &mut out) {
                Ok(()) => assert!(fits, "{h} x {w}"),
                Err(error) => {
                    assert!(
                        !fits && error.kind() == "InvalidImage",
                        "{h} x {w}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_extreme_aspect_ratio_computes_no_more_than_the_crop() {
    // The shorter edge to 32 makes the long one 2 million: only the crop may be computed.
    let resize = json!({"mode": "shorter", "size": [32], "filter": "bicubic"});
    let pixels = vec![200u8; 65_500];
    let mut out = Vec::new();
    for (h, w) in [(1, 65_500), (65_500, 1)] {
        let view = ImageView::packed(&pixels, h, w, 1).unwrap();
        Preprocessor::new(&config(32, 32, 3, &resize))
            .run(&view, &mut out)
            .unwrap();
        assert_eq!(out, vec![200; 32 * 32 * 3]);
    }
}
