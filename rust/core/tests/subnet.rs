//! The subnet file: what is written reads back, and every damaged, inconsistent or hostile file has
//! its named error.

use std::path::{Path, PathBuf};

use quasar_core::subnet::container::Dtype;
use quasar_core::{Error, Subnet};
use serde_json::{json, Value};

type Parts = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/vectors")
        .join(name)
}

fn sample() -> Subnet {
    Subnet::load(vector("token.qvit")).unwrap()
}

fn parts(subnet: &Subnet) -> (Value, Parts) {
    let tensor = |(name, t): (&str, &quasar_core::subnet::container::Tensor)| {
        (
            name.to_owned(),
            t.dtype(),
            t.shape().to_vec(),
            t.data().to_vec(),
        )
    };
    (
        serde_json::from_str(subnet.config_json()).unwrap(),
        subnet.tensors().map(tensor).collect(),
    )
}

/// Returns the error of a subnet whose config or tensors were changed.
fn error_with(change: impl FnOnce(&mut Value, &mut Parts)) -> Error {
    let (mut config, mut tensors) = parts(&sample());
    change(&mut config, &mut tensors);
    Subnet::from_parts(&config.to_string(), tensors).expect_err("this must be refused")
}

/// Expects that an error names a tensor.
fn names_tensor(error: &Error, name: &str) {
    let named = matches!(error, Error::InvalidTensor { tensor, .. } if tensor == name);
    assert!(named, "{name}: {error}");
}

fn data<'a>(tensors: &'a mut Parts, name: &str) -> &'a mut Vec<u8> {
    &mut tensors.iter_mut().find(|t| t.0 == name).unwrap().3
}

/// Returns a container with any header.
fn container(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data);
    bytes
}

fn kind(bytes: &[u8]) -> &'static str {
    Subnet::from_bytes(bytes)
        .expect_err("this must be refused")
        .kind()
}

#[test]
fn a_subnet_reads_back_equal_and_is_always_the_same_bytes() {
    let subnet = sample();
    let bytes = subnet.to_bytes().unwrap();
    assert_eq!(bytes, std::fs::read(vector("token.qvit")).unwrap());
    assert_eq!(Subnet::from_bytes(&bytes).unwrap(), subnet);
    let (config, mut tensors) = parts(&subnet);
    tensors.reverse();
    assert_eq!(
        Subnet::from_parts(subnet.config_json(), tensors)
            .unwrap()
            .to_bytes()
            .unwrap(),
        bytes
    );
    assert_eq!(config["name"], subnet.config().name);
}

#[test]
fn any_safetensors_reader_can_list_it() {
    let bytes = sample().to_bytes().unwrap();
    let container = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(container.len(), sample().tensors().len());
    assert_eq!(
        container.tensor("position").unwrap().data(),
        sample().tensor("position").unwrap().data()
    );
}

#[test]
fn files_that_cannot_be_read_name_their_path() {
    for path in ["/no/such/file.qvit", "/"] {
        let error = Subnet::load(path).unwrap_err();
        assert_eq!(error.kind(), "Io");
        assert!(error.to_string().starts_with(path), "{error}");
    }
    #[cfg(unix)]
    assert_eq!(Subnet::load("/dev/zero").unwrap_err().kind(), "Io");
}

#[test]
fn a_file_beyond_the_limit_is_refused_unread() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len((512 << 20) + 1).unwrap();
    assert_eq!(Subnet::load(file.path()).unwrap_err().kind(), "TooLarge");
}

#[test]
fn a_truncated_file_is_an_error_wherever_it_ends() {
    let bytes = Subnet::load(vector("mean-after-norm.qvit"))
        .unwrap()
        .to_bytes()
        .unwrap();
    for end in 0..bytes.len() {
        let error = Subnet::from_bytes(&bytes[..end]).unwrap_err();
        assert_eq!(error.kind(), "Truncated", "{end} bytes: {error}");
    }
}

#[test]
fn a_longer_file_is_an_error() {
    let mut bytes = sample().to_bytes().unwrap();
    bytes.push(0);
    assert_eq!(kind(&bytes), "NotASubnet");
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = Subnet::load(vector("mean-after-norm.qvit"))
        .unwrap()
        .to_bytes()
        .unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(Subnet::from_bytes(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn a_flipped_bit_in_a_tensor_is_a_checksum_mismatch() {
    let mut bytes = sample().to_bytes().unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(kind(&bytes), "ChecksumMismatch");
}

#[test]
fn files_of_other_formats_are_not_subnets() {
    assert_eq!(
        kind(b"PK\x03\x04 a zip archive, perhaps a torch checkpoint"),
        "NotASubnet"
    );
    assert_eq!(kind(&[0xff; 64]), "NotASubnet");
    assert_eq!(kind(&container(b"{}", b"")), "NotASubnet");
    assert_eq!(kind(&container(b"[1, 2]", b"")), "NotASubnet");
    assert_eq!(
        kind(&container(br#"{"__metadata__": {"format": "pt"}}"#, b"")),
        "NotASubnet"
    );
    assert_eq!(kind(b""), "Truncated");
}

#[test]
fn other_versions_are_named() {
    let header =
        br#"{"__metadata__": {"format": "qvit", "version": "6", "config": "{}", "sha256": ""}}"#;
    let error = Subnet::from_bytes(&container(header, b"")).unwrap_err();
    assert!(
        matches!(&error, Error::UnsupportedVersion { found } if found == "6"),
        "{error}"
    );
}

#[test]
fn hostile_headers_are_refused_before_anything_is_allocated() {
    let mut huge = (4u64 << 20 | 8).to_le_bytes().to_vec();
    huge.extend(b"{\"a\"");
    assert_eq!(kind(&huge), "TooLarge");
    let mut endless = u64::MAX.to_le_bytes().to_vec();
    endless.extend(b"{");
    assert_eq!(kind(&endless), "TooLarge");

    let deep = "[".repeat(1 << 20);
    for header in [
        deep.clone(),
        format!(r#"{{"__metadata__": {deep}}}"#),
        r#"{"__metadata__": {"format": "qvit", "format": "qvit"}}"#.into(),
        "{\"a\u{0}".into(),
    ] {
        assert_eq!(
            kind(&container(header.as_bytes(), &[0; 4])),
            "NotASubnet",
            "{header:.80}"
        );
    }
    for (tensors, problem) in [
        (format!(r#""a": {deep}"#), "recursion limit"),
        (r#""a": {"dtype": "U8", "shape": [18446744073709551615, 18446744073709551615], "data_offsets": [0, 4]}"#.into(), "overflow computing"),
        (r#""a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 4]}"#.into(), "expected usize"),
        (r#""a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}"#.into(), "invalid offset"),
        (r#""a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "b": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}"#.into(), "invalid offset"),
        (r#""a": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}"#.into(), "invalid offset"),
        (r#""a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}"#.into(), "appears twice"),
        (r#""a": {"dtype": "X9", "shape": [4], "data_offsets": [0, 4]}"#.into(), "unknown variant"),
    ] {
        let metadata = r#""__metadata__": {"format": "qvit", "version": "1", "config": "", "sha256": ""}"#;
        let header = format!("{{{metadata}, {tensors}}}");
        let error = Subnet::from_bytes(&container(header.as_bytes(), &[0; 4])).unwrap_err();
        assert_eq!(error.kind(), "NotASubnet", "{header:.300}");
        assert!(error.to_string().contains(problem), "{problem}: {error}");
    }
    assert_eq!(
        kind(&container(&[b'{', 0xff, 0xfe, b'}'], &[])),
        "NotASubnet"
    );
}

#[test]
fn config_problems_name_their_key() {
    let cases: &[(&str, Value)] = &[
        ("image.height", json!(0)),
        ("image.height", json!(100_000)),
        ("image.channels", json!(2)),
        ("patch.kernel", json!(0)),
        ("patch.kernel", json!(4096)),
        ("patch.stride", json!(0)),
        ("patch.pad", json!(4)),
        ("prefix_tokens", json!(1024)),
        ("embed", json!(0)),
        ("embed", json!(1025)),
        ("blocks", json!([])),
        ("blocks.0.heads", json!(0)),
        ("blocks.1.head_dim", json!(129)),
        ("blocks.1.hidden", json!(4097)),
        ("classes", json!([])),
        ("logit_scale", json!(0.0)),
        ("logit_scale", json!(-1e-3)),
        ("logit_scale", json!(1e-21)),
        ("logit_scale", json!(1e21)),
        ("logit_scale", json!(1e308)),
        ("name", json!("a\u{1b}[31m")),
        ("name", json!("a".repeat(1001))),
        ("classes.1", json!("a\nb")),
        ("classes.0", json!("\u{9b}")),
        ("preprocess.resize.size", json!([1, 2, 3])),
    ];
    for (key, value) in cases {
        let error = error_with(|config, _| {
            let pointer = format!("/{}", key.replace('.', "/"));
            match config.pointer_mut(&pointer) {
                Some(at) => *at = value.clone(),
                None => {
                    config["preprocess"]["resize"] =
                        json!({"mode": "shorter", "size": value, "filter": "bicubic"});
                }
            }
        });
        assert!(
            matches!(&error, Error::InvalidConfig { key: found, .. } if found.contains(key)),
            "{key} = {value}: {error}"
        );
    }
}

#[test]
fn config_must_have_the_documents_keys_and_types() {
    let changes: &[(&str, Value)] = &[
        ("/embed", json!(-1)),
        ("/embed", json!(32.5)),
        ("/embed", json!("32")),
        ("/patch/pad_value", json!(256)),
        ("/blocks/0/fc1_zero_point", json!(128)),
        ("/pool", json!("max")),
        ("/logit_scale", json!(null)),
        ("/trained", json!(1)),
        ("/provenance", json!([])),
        ("/image", json!({"height": 28, "width": 28})),
        (
            "/image",
            json!({"height": 28, "width": 28, "channels": 1, "depth": 1}),
        ),
        ("/preprocess/resize", json!({"mode": "stretch"})),
        (
            "/preprocess/resize",
            json!({"mode": "shorter", "size": [64], "filter": "lanczos"}),
        ),
        (
            "/preprocess/resize",
            json!({"mode": "shorter", "size": [64]}),
        ),
    ];
    for (pointer, value) in changes {
        let error = error_with(|config, _| *config.pointer_mut(pointer).unwrap() = value.clone());
        assert_eq!(
            error.kind(),
            "InvalidConfig",
            "{pointer} = {value}: {error}"
        );
    }
    assert_eq!(
        error_with(|config, _| config["surprise"] = json!(1)).kind(),
        "InvalidConfig"
    );
    let (config, tensors) = parts(&sample());
    let text = config.to_string();
    for bad in [
        text.replacen("\"logit_scale\":", "\"logit_scale\":NaN,\"x\":", 1),
        text.replacen("\"logit_scale\":", "\"logit_scale\":1e999,\"x\":", 1),
        text.replacen("\"embed\":", "\"embed\":32,\"embed\":", 1),
        text.replacen(
            "\"provenance\":{",
            &format!("\"provenance\":{{\"deep\":{}", "[".repeat(100_000)),
            1,
        ),
        String::new(),
    ] {
        assert_eq!(
            Subnet::from_parts(&bad, tensors.clone())
                .unwrap_err()
                .kind(),
            "InvalidConfig",
            "{bad:.80}"
        );
    }
    let long = text.replacen(
        "\"provenance\":{",
        &format!("\"provenance\":{{\"a\":\"{}\",", "x".repeat(1 << 20)),
        1,
    );
    assert_eq!(
        Subnet::from_parts(&long, tensors).unwrap_err().kind(),
        "TooLarge"
    );
}

#[test]
fn every_missing_tensor_is_named() {
    let (config, tensors) = parts(&sample());
    for missing in 0..tensors.len() {
        let mut fewer = tensors.clone();
        let (name, ..) = fewer.remove(missing);
        let error = Subnet::from_parts(&config.to_string(), fewer).unwrap_err();
        names_tensor(&error, &name);
    }
}

#[test]
fn every_wrong_dtype_and_shape_is_named() {
    let (config, tensors) = parts(&sample());
    for at in 0..tensors.len() {
        let name = tensors[at].0.clone();
        let mut flat = tensors.clone();
        let elements = flat[at].2.iter().product();
        flat[at].2 = vec![elements, 1];
        let mut other = tensors.clone();
        other[at].1 = if other[at].1 == Dtype::U8 {
            Dtype::I8
        } else {
            Dtype::U8
        };
        other[at].2 = vec![other[at].3.len()];
        for changed in [flat, other] {
            let error = Subnet::from_parts(&config.to_string(), changed).unwrap_err();
            names_tensor(&error, &name);
        }
    }
}

#[test]
fn extra_and_repeated_tensors_are_named() {
    let error =
        error_with(|_, tensors| tensors.push(("extra".into(), Dtype::U8, vec![1], vec![0])));
    names_tensor(&error, "extra");
    let error = error_with(|_, tensors| tensors.push(tensors[0].clone()));
    assert_eq!(error.kind(), "InvalidTensor");
    let error = error_with(|_, tensors| tensors[0].3.push(0));
    assert_eq!(error.kind(), "InvalidTensor");
}

#[test]
fn a_key_twice_is_refused_at_any_depth() {
    let (config, tensors) = parts(&sample());
    let config = config.to_string();
    for (once, twice) in [
        (r#""embed":"#, r#""embed": 1, "embed":"#),
        (r#""provenance":{"#, r#""provenance":{"a": 1, "a": 1, "#),
        (
            r#""provenance":{"#,
            r#""provenance":{"b": [{"a": 1, "a": null}], "#,
        ),
    ] {
        assert!(config.contains(once), "{config}");
        let error = Subnet::from_parts(&config.replace(once, twice), tensors.clone()).unwrap_err();
        assert_eq!(error.kind(), "InvalidConfig");
        assert!(error.to_string().contains("appears twice"), "{error}");
    }
}

#[test]
fn float_logits_are_finite_at_both_ends_of_the_scale() {
    use quasar_core::subnet::config::{MAX_LOGIT_SCALE, MIN_LOGIT_SCALE};
    let float = |logit: i32, scale: f64| (f64::from(logit) * scale) as f32;
    assert!(float(i32::MIN, MAX_LOGIT_SCALE).is_normal());
    assert!(float(1, MIN_LOGIT_SCALE).is_normal());
}

#[test]
fn values_out_of_range_are_named() {
    let cases: &[(&str, usize, &[u8])] = &[
        ("embed.bits", 0, &[5]),
        ("embed.shift", 1, &[0]),
        ("embed.shift", 1, &[31]),
        ("embed.mult", 2, &1i16.to_le_bytes()),
        ("embed.mult", 2, &(-16384i16).to_le_bytes()),
        ("head.mult", 0, &(-1i16).to_le_bytes()),
        ("norm.frac", 0, &[9]),
        ("norm.epsilon", 0, &0i64.to_le_bytes()),
        ("norm.epsilon", 0, &(-1i64).to_le_bytes()),
        ("norm.epsilon", 0, &(1i64 << 50).to_le_bytes()),
        ("blocks.0.attn.mult", 0, &0i32.to_le_bytes()),
        ("blocks.0.attn.mult", 4, &((1i32 << 24) + 1).to_le_bytes()),
        ("blocks.1.attn.out_mult", 0, &16383i16.to_le_bytes()),
        ("blocks.1.attn.out_shift", 0, &[10]),
        ("blocks.1.attn.out_shift", 1, &[30]),
        ("position", 2, &i16::MIN.to_le_bytes()),
        ("prefix", 0, &i16::MIN.to_le_bytes()),
    ];
    for (name, at, bytes) in cases {
        let error = error_with(|_, tensors| {
            data(tensors, name)[*at..at + bytes.len()].copy_from_slice(bytes);
        });
        names_tensor(&error, name);
    }
}

/// Replaces all bits and weights of the layer `embed`, which has 32 rows.
fn with_embed(tensors: &mut Parts, bits: u8, row: &[u8]) {
    data(tensors, "embed.bits").fill(bits);
    let weight = tensors.iter_mut().find(|t| t.0 == "embed.weight").unwrap();
    weight.3 = row.repeat(32);
    weight.2 = vec![weight.3.len()];
}

#[test]
fn weights_must_be_narrow_and_of_the_bits_size() {
    for (bits, row) in [
        (4, vec![0x18u8; 8]),
        (4, vec![0x81; 8]),
        (8, vec![0x80; 16]),
        (4, vec![0; 16]),
        (8, vec![0; 8]),
    ] {
        let error = error_with(|_, tensors| with_embed(tensors, bits, &row));
        names_tensor(&error, "embed.weight");
    }
}

#[test]
fn a_row_that_could_overflow_its_accumulator_is_named() {
    let bias = (1i32 << 26) - 128 * 127 * 16;
    for (bias, refused) in [
        (bias - 1, false),
        (1 - bias, false),
        (bias, true),
        (-bias, true),
        (i32::MIN, true),
    ] {
        let (config, mut tensors) = parts(&sample());
        with_embed(&mut tensors, 8, &[127; 16]);
        data(&mut tensors, "embed.bias")[12..16].copy_from_slice(&bias.to_le_bytes());
        match Subnet::from_parts(&config.to_string(), tensors) {
            Ok(_) => assert!(!refused, "{bias}"),
            Err(Error::AccumulatorOverflow { layer, row, bound }) => {
                assert!(
                    refused && layer == "embed" && row == 3 && bound >= 1 << 26,
                    "{bias}"
                );
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn an_unused_nibble_must_be_zero() {
    // 33 columns: every 4-bit row of qkv ends with half a byte.
    let subnet = Subnet::load(vector("all-4.qvit")).unwrap();
    let (config, mut tensors) = parts(&subnet);
    data(&mut tensors, "blocks.0.qkv.weight")[16] |= 0x10;
    let error = Subnet::from_parts(&config.to_string(), tensors).unwrap_err();
    names_tensor(&error, "blocks.0.qkv.weight");
}

#[test]
fn the_summary_adds_up() {
    let subnet = sample();
    let summary = subnet.summary();
    let packed: usize = subnet
        .tensors()
        .filter(|(n, _)| n.ends_with(".weight"))
        .map(|(_, t)| t.data().len())
        .sum();
    assert_eq!(summary.weight_bytes, packed);
    assert_eq!(summary.layers.len(), 1 + 4 * 2 + 1);
    // 16 x 16 in patches of 4: 16 patches and a class token; embed 32, 2 blocks of 2 heads of 16,
    // hidden 64, 10 classes.
    let block = 17 * (3 * 32 * 32 + 32 * 32 + 2 * 32 * 64) + 2 * 17 * 17 * 32;
    let nominal = 16 * 32 * 16 + 2 * block + 32 * 10;
    assert_eq!(summary.nominal_macs, nominal as u64);
    // The last block needs queries, attention, projection and MLP of the class token alone.
    let skipped = 16 * (32 * 32 + 32 * 32 + 2 * 32 * 64) + 2 * 16 * 17 * 32;
    assert_eq!(summary.macs, (nominal - skipped) as u64);
    for layer in &summary.layers {
        assert_eq!(layer.rows4 + layer.rows8, layer.rows, "{}", layer.name);
    }
}

#[test]
fn every_kind_of_error_has_its_name() {
    let kinds: std::collections::HashSet<_> = Error::KINDS.iter().collect();
    assert_eq!(kinds.len(), Error::KINDS.len());
    assert!(kinds.contains(&Error::Interrupted.kind()));
}
