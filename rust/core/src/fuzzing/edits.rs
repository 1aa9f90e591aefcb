//! Edits of sound subnet files that end with a new digest: a fuzzer that flips bytes gets neither
//! past the digest nor far into the JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{json, Value};

use crate::subnet::config::Config;
use crate::subnet::container::{self, Dtype, Tensor, Tensors};
use crate::subnet::schema::{self, LinearSpec, Rule};
use crate::{rows, Subnet};

/// Bytes of an edit.
const EDIT_BYTES: usize = 8;
/// Edits of a file, at most.
const MAX_EDITS: usize = 64;
/// Bytes of the tensors, at most, that an edit makes.
const MAX_BYTES: usize = 1 << 18;
const GOLDEN: [&str; 8] = [
    "mean-after-norm",
    "overlap",
    "all-4",
    "token",
    "token-pair",
    "embed-norm",
    "rotary",
    "attention",
];
const DTYPES: [Dtype; 5] = [Dtype::U8, Dtype::I8, Dtype::I16, Dtype::I32, Dtype::I64];
/// Texts that a configuration may or may not have.
const TEXTS: [&str; 14] = [
    "token",
    "mean",
    "mean_after_norm",
    "none",
    "exact",
    "shorter",
    "nearest",
    "bicubic",
    "",
    "\u{7f}",
    "\u{202e}\u{0}",
    "1e999",
    "token_pair",
    "attention",
];

/// An edit, as the fuzzer's bytes state it.
struct Edit {
    kind: u8,
    how: u8,
    place: usize,
    value: i64,
}

impl Edit {
    fn of(bytes: [u8; EDIT_BYTES]) -> Self {
        let [kind, how, a, b, value @ ..] = bytes;
        Self {
            kind,
            how,
            place: u16::from_le_bytes([a, b]).into(),
            value: i32::from_le_bytes(value).into(),
        }
    }

    /// Returns a number that takes the place of `old`.
    fn number(&self, old: i64) -> i64 {
        match self.how % 12 {
            0 => old.wrapping_add(1),
            1 => old.wrapping_sub(1),
            2 => old.wrapping_mul(2),
            3 => old / 2,
            4 => old.wrapping_neg(),
            5 => 0,
            6 => -1,
            7 => self.value.rem_euclid(8),
            8 => self.value.rem_euclid(128),
            9 => 1 << self.value.rem_euclid(63),
            10 => i64::MAX,
            _ => self.value,
        }
    }
}

/// A subnet file in the making.
struct Draft {
    config: Value,
    tensors: Tensors,
    /// Rules of the golden subnet's tensors.
    rules: BTreeMap<String, Rule>,
}

impl Draft {
    /// Returns the draft of a golden subnet, which is read once.
    fn golden(number: u8) -> Self {
        static SUBNETS: OnceLock<Vec<Subnet>> = OnceLock::new();
        let subnets = SUBNETS.get_or_init(|| {
            let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
            let read = |name| Subnet::load(vectors.join(format!("{name}.qvit"))).expect(name);
            GOLDEN.into_iter().map(read).collect()
        });
        let subnet = &subnets[usize::from(number) % GOLDEN.len()];
        let tensors = subnet.tensors().map(|(n, t)| (n.to_owned(), t.clone()));
        let specs = schema::tensors(subnet.config()).into_iter();
        Self {
            config: serde_json::from_str(subnet.config_json()).expect("a subnet's config is JSON"),
            tensors: tensors.collect(),
            rules: specs.map(|spec| (spec.name, spec.rule)).collect(),
        }
    }

    /// Makes the network small, so that many can be run.
    fn shrink(&mut self) {
        if let Some(Value::Array(blocks)) = self.config.get_mut("blocks") {
            blocks.truncate(2);
            for block in blocks {
                (block["heads"], block["head_dim"]) = (json!(2), json!(3));
                block["hidden"] = json!(5);
            }
        }
        self.config["embed"] = json!(6);
        self.config["classes"] = json!(["a", "b", "c"]);
        self.fit(&Edit::of([0; EDIT_BYTES]));
    }

    fn edit(&mut self, edit: &Edit) {
        match edit.kind % 10 {
            0 | 1 => self.set_leaf(edit),
            2 => self.restructure(edit),
            3 => self.retype(edit),
            4 => self.rename(edit),
            5 | 6 => self.set_values(edit),
            7 => self.change_widths(edit),
            _ => self.fit(edit),
        }
    }

    /// Replaces a value of the configuration that is no object and no array.
    fn set_leaf(&mut self, edit: &Edit) {
        let mut leaves = Vec::new();
        pointers(&self.config, "", &mut leaves, &|v| {
            !v.is_object() && !v.is_array()
        });
        let Some(leaf) = pick(&mut self.config, &leaves, edit.place) else {
            return;
        };
        let text = TEXTS[edit.value.rem_euclid(TEXTS.len() as i64) as usize];
        *leaf = match (edit.how >> 4, &*leaf) {
            (10, _) => Value::Null,
            (11, _) => json!(0.5),
            (12, _) => json!(text),
            (13, _) => json!([0]),
            (14, _) => json!(1e300),
            (15, _) => json!("x".repeat(2000)),
            (_, Value::Number(old)) => match old.as_i64() {
                Some(old) => json!(edit.number(old)),
                None => json!(f64::from(edit.value as i32) * 1e-7),
            },
            (_, Value::Bool(old)) => json!(!old),
            (_, Value::String(_)) => json!(text),
            (_, other) => other.clone(),
        };
    }

    /// Adds, repeats or removes a member of an array or an object of the configuration.
    fn restructure(&mut self, edit: &Edit) {
        let mut all = Vec::new();
        pointers(&self.config, "", &mut all, &|v| {
            v.is_object() || v.is_array()
        });
        let at = edit.value.unsigned_abs() as usize;
        match pick(&mut self.config, &all, edit.place) {
            Some(Value::Array(members)) if !members.is_empty() => {
                let at = at % members.len();
                match edit.how % 4 {
                    0 => drop(members.remove(at)),
                    1 => members.clear(),
                    _ if members.len() < 70 => members.push(members[at].clone()),
                    _ => members.truncate(1),
                }
            }
            Some(Value::Object(members)) if !members.is_empty() => {
                let key = members.keys().nth(at % members.len()).cloned();
                let key = key.unwrap_or_default();
                match edit.how % 3 {
                    0 => drop(members.remove(&key)),
                    1 => drop(members.insert(format!("{key}x"), json!(1))),
                    _ => drop(members.insert(key, json!({}))),
                }
            }
            _ => {}
        }
    }

    /// Returns the tensor of an edit, and its name.
    fn tensor(&mut self, edit: &Edit) -> Option<(String, &mut Tensor)> {
        let count = self.tensors.len().max(1);
        let mut tensors = self.tensors.iter_mut();
        let (name, tensor) = tensors.nth(edit.place % count)?;
        Some((name.clone(), tensor))
    }

    /// Changes a tensor's dtype or shape, in the header alone or with its bytes.
    fn retype(&mut self, edit: &Edit) {
        let Some((_, tensor)) = self.tensor(edit) else {
            return;
        };
        let mut shape = tensor.shape().to_vec();
        let mut dtype = tensor.dtype();
        let mut data = tensor.data().to_vec();
        let at = edit.value.unsigned_abs() as usize;
        match edit.how >> 4 {
            0..4 => dtype = DTYPES[at % DTYPES.len()],
            4..6 => shape.push(edit.number(1) as usize),
            6 => drop(shape.pop()),
            _ => {
                let count = shape.len().max(1);
                if let Some(size) = shape.get_mut(at % count) {
                    *size = edit.number(*size as i64) as usize;
                }
            }
        }
        let bytes = (shape.iter()).try_fold(dtype.size(), |n, &size| n.checked_mul(size));
        if let Some(bytes) = bytes.filter(|&bytes| bytes <= MAX_BYTES && edit.how & 1 == 0) {
            data = data.into_iter().chain([0]).cycle().take(bytes).collect();
        }
        *tensor = Tensor::unchecked(dtype, shape, data);
    }

    /// Removes, renames or copies a tensor.
    fn rename(&mut self, edit: &Edit) {
        let Some((name, tensor)) = self.tensor(edit) else {
            return;
        };
        let copy = tensor.clone();
        if edit.how % 3 != 2 {
            self.tensors.remove(&name);
        }
        let number = edit.value.rem_euclid(70);
        match edit.how % 3 {
            0 => {}
            _ if edit.how & 4 == 0 => drop(self.tensors.insert(format!("{name}{number}"), copy)),
            _ => {
                let other = name.replacen(".0.", &format!(".{number}."), 1);
                self.tensors.insert(other, copy);
            }
        }
    }

    /// Sets one or all values of a tensor, most often to an end of what is allowed.
    fn set_values(&mut self, edit: &Edit) {
        let rules = self.rules.clone();
        let Some((name, tensor)) = self.tensor(edit) else {
            return;
        };
        let mut values: Vec<i64> = tensor.values().collect();
        let (least, most) = match rules.get(&name) {
            Some(Rule::Range(least, most)) => (*least, *most),
            Some(Rule::Mantissa) => (1 << 14, (1 << 15) - 1),
            Some(Rule::Bits) => (4, 8),
            Some(Rule::Weight) => (0x77, 0x99),
            _ => (i64::MIN, i64::MAX),
        };
        let count = values.len().max(1);
        let at = edit.value.unsigned_abs() as usize % count;
        for (i, value) in values.iter_mut().enumerate() {
            if edit.how & 1 == 0 && i != at {
                continue;
            }
            *value = match edit.how >> 1 & 7 {
                0 => least,
                1 => most,
                2 => least.wrapping_sub(1),
                3 => most.wrapping_add(1),
                4 => [least, most][(i + at) % 2],
                5 => 0,
                6 => value.wrapping_neg(),
                _ => edit.number(*value),
            };
        }
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        *tensor = Tensor::unchecked(dtype, shape, little_endian(dtype, values));
    }

    /// Changes the widths of a layer's rows; [`Self::fit`] mends its weights.
    fn change_widths(&mut self, edit: &Edit) {
        let names: Vec<_> = self.tensors.keys().cloned().collect();
        let mut layers = names.iter().filter(|name| part(name) == "bits");
        let count = layers.clone().count().max(1);
        let Some(name) = layers.nth(edit.place % count) else {
            return;
        };
        let old = &self.tensors[name];
        let width = |(i, old): (usize, i64)| match edit.how % 3 {
            0 => 12 - old,
            1 => 4 + 4 * (edit.value >> (i % 32) & 1),
            _ => 4 + 4 * (edit.value & 1),
        };
        let widths = little_endian(old.dtype(), old.values().enumerate().map(width));
        let tensor = Tensor::unchecked(old.dtype(), old.shape().to_vec(), widths);
        self.tensors.insert(name.clone(), tensor);
        self.fit(edit);
    }

    /// Makes the tensors that the configuration calls for, if it is sound and they are small, of
    /// those that are there.
    fn fit(&mut self, edit: &Edit) {
        let Ok(config) = Config::from_json(&self.config.to_string()) else {
            return;
        };
        let (layers, specs) = (schema::linears(&config), schema::tensors(&config));
        let weights: usize = layers.iter().map(|l| l.rows * l.k).sum();
        let others = specs.iter().filter_map(|spec| {
            let shape = spec.shape.as_ref()?;
            Some(shape.iter().product::<usize>() * spec.dtype.size())
        });
        if weights + others.sum::<usize>() > MAX_BYTES {
            return;
        }
        let mut made = Tensors::new();
        for spec in &specs {
            let first_block = spec.name.split_once('.').and_then(|(_, rest)| {
                let (_, part) = rest.split_once('.')?;
                self.tensors.get(&format!("blocks.0.{part}"))
            });
            let old = self.tensors.get(&spec.name).or(first_block);
            let old: Vec<i64> = old.map_or(Vec::new(), |old| old.values().collect());
            let old = if old.is_empty() { vec![1] } else { old };
            let (shape, data) = if let Some(shape) = &spec.shape {
                let values = old.into_iter().cycle().take(shape.iter().product());
                let values = values.map(|v| allowed(v, spec.rule, &spec.name));
                (shape.clone(), little_endian(spec.dtype, values))
            } else {
                let layer = spec.name.trim_end_matches(".weight");
                let layer = layers.iter().find(|l| l.name == layer);
                let data = packed(layer.expect("a layer's weights"), &made, &old);
                (vec![data.len()], data)
            };
            made.insert(
                spec.name.clone(),
                Tensor::unchecked(spec.dtype, shape, data),
            );
        }
        if edit.how & 0x80 != 0 {
            // What else there is stays, and is too much.
            for (name, tensor) in &self.tensors {
                made.entry(name.clone()).or_insert_with(|| tensor.clone());
            }
        }
        self.tensors = made;
    }
}

/// Returns the last part of a tensor's name.
fn part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Returns the value or one close by that the rule allows.
fn allowed(value: i64, rule: Rule, name: &str) -> i64 {
    match rule {
        Rule::Bits if value == 8 => 8,
        Rule::Bits => 4,
        Rule::Range(least, most) => value.clamp(least, most),
        Rule::Mantissa if value == 0 => 0,
        Rule::Mantissa => value.clamp(1 << 14, (1 << 15) - 1),
        // Half of an accumulator's bound.
        Rule::Any if part(name) == "bias" && !name.contains("norm") => {
            value.clamp(-(1 << 25), 1 << 25)
        }
        Rule::Any | Rule::Weight => value,
    }
}

/// Packs rows of a layer whose widths are made, from any bytes.
fn packed(layer: &LinearSpec, made: &Tensors, bytes: &[i64]) -> Vec<u8> {
    let widths = made[&format!("{}.bits", layer.name)].data();
    let mut bytes = bytes.iter().cycle().map(|&byte| byte as u8);
    let mut data = Vec::new();
    for &width in widths {
        let length = rows::row_bytes(layer.k, width);
        for at in 0..length {
            let byte = bytes.next().unwrap_or_default();
            let nibble = |nibble: u8| if nibble == 8 { 9 } else { nibble };
            data.push(match width {
                8 if byte == 0x80 => 0x81,
                8 => byte,
                _ if layer.k % 2 == 1 && at + 1 == length => nibble(byte & 15),
                _ => nibble(byte & 15) | nibble(byte >> 4) << 4,
            });
        }
    }
    data
}

fn little_endian(dtype: Dtype, values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    let bytes = |value: i64| value.to_le_bytes().into_iter().take(dtype.size());
    values.into_iter().flat_map(bytes).collect()
}

/// Collects the JSON pointers of the values that are wanted.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>, wanted: &dyn Fn(&Value) -> bool) {
    if wanted(value) {
        all.push(at.to_owned());
    }
    match value {
        Value::Array(members) => {
            for (i, member) in members.iter().enumerate() {
                pointers(member, &format!("{at}/{i}"), all, wanted);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(member, &format!("{at}/{key}"), all, wanted);
            }
        }
        _ => {}
    }
}

fn pick<'a>(value: &'a mut Value, pointers: &[String], place: usize) -> Option<&'a mut Value> {
    let pointer = pointers.get(place % pointers.len().max(1))?;
    value.pointer_mut(pointer)
}

/// Changes a number of a container's header, whose digest does not cover it.
fn edit_header(file: &[u8], edit: &Edit) -> Option<Vec<u8>> {
    let length = u64::from_le_bytes(*file.first_chunk()?) as usize;
    let (header, data) = file[8..].split_at_checked(length)?;
    let mut header: Value = serde_json::from_slice(header).ok()?;
    let mut leaves = Vec::new();
    pointers(&header, "", &mut leaves, &Value::is_number);
    let number = pick(&mut header, &leaves, edit.place)?;
    *number = json!(edit.number(number.as_i64()?));
    let header = header.to_string().into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    Some(file)
}

/// Makes a subnet file: the golden subnet of the first byte, made small if its highest bit is set,
/// changed by edits of eight bytes each, with the digest of what came out. The flag is true if the
/// digest covers all that was changed.
pub(super) fn edited_subnet(bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
    let (&first, rest) = bytes.split_first()?;
    let mut draft = Draft::golden(first & 127);
    if first >= 128 {
        draft.shrink();
    }
    let edits = rest.as_chunks().0.iter().take(MAX_EDITS);
    let (of_header, edits): (Vec<_>, Vec<_>) =
        (edits.map(|&bytes| Edit::of(bytes))).partition(|edit| edit.kind >= 240);
    for edit in &edits {
        draft.edit(edit);
    }
    let config = draft.config.to_string();
    let version = Config::from_json(&config).map_or("1", |config| config.version());
    let mut file = container::serialize(version, &config, &draft.tensors).ok()?;
    for edit in &of_header {
        file = edit_header(&file, edit).unwrap_or(file);
    }
    Some((file, of_header.is_empty()))
}
