//! A JSON value as serde reads it, with errors that say where it is wrong and what stands there.

use super::did_you_mean;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Value, map};
use std::fmt;
use std::slice;

/// What is wrong.
#[derive(Debug)]
pub struct Fault {
    /// From the outside in: `inner`, `.deep`, `[2]`.
    place: Vec<String>,
    what: String,
    got: Got,
    hint: Option<String>,
}

/// What stands there instead.
#[derive(Debug)]
enum Got {
    /// `what` says it, or it does not matter.
    Said,
    Value(String),
    /// The value at the innermost place.
    Here,
}

impl Fault {
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    fn new(what: String, got: Got) -> Self {
        Self { place: Vec::new(), what, got, hint: None }
    }

    /// The fault as it is seen from the field or element `name`, whose value is `value`.
    fn within(mut self, name: String, value: &Value) -> Self {
        // Some types name their field themselves.
        if let Some(rest) = self.what.strip_prefix(&format!("{}: ", name.trim_start_matches('.'))) {
            self.what = rest.to_owned();
        }
        if self.place.is_empty() {
            match (&self.got, value) {
                (Got::Here, _) => self.got = Got::Value(shown(value)),
                // serde reads the fields of a tagged enum out of a copy, which knows no names.
                (Got::Value(got), Value::Object(fields)) => {
                    let mut same = fields.iter().filter(|(_, value)| shown(value) == *got);
                    if let (Some((field, _)), None) = (same.next(), same.next()) {
                        self.place.push(format!(".{field}"));
                    }
                }
                _ => {}
            }
        }
        self.place.insert(0, name);
        self
    }
}

/// A value as JSON, cut short.
fn shown(value: &Value) -> String {
    const MOST: usize = 80;
    let text = match value.as_f64() {
        // An integer past 64 bits, which is kept as a double.
        Some(x) if value.is_f64() && x.fract() == 0.0 && (1e16..1e21).contains(&x.abs()) => format!("{x:.0}"),
        _ => value.to_string(),
    };
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A type as people call it.
fn words(expected: &dyn Expected) -> String {
    let name = expected.to_string();
    let whole = |low: i128, high: i128| format!("a whole number from {low} to {high}");
    match name.as_str() {
        "u8" => whole(0, u8::MAX.into()),
        "u16" => whole(0, u16::MAX.into()),
        "u32" => whole(0, u32::MAX.into()),
        "u64" | "usize" => whole(0, u64::MAX.into()),
        "i32" => whole(i32::MIN.into(), i32::MAX.into()),
        "i64" => whole(i64::MIN.into(), i64::MAX.into()),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "path string" => "text".into(),
        "a sequence" => "a list".into(),
        "a map" => "an object".into(),
        _ if name.starts_with("struct ") || name.starts_with("internally tagged") => "an object".into(),
        _ => name.replace("an array of length", "a list of"),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.concat();
        if !place.is_empty() {
            write!(f, "{}: ", place.trim_start_matches('.'))?;
        }
        f.write_str(&self.what)?;
        match &self.got {
            Got::Value(got) => write!(f, ", got {got}"),
            Got::Said | Got::Here => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let what = message.to_string();
        let got = if what.starts_with("expected") { Got::Here } else { Got::Said };
        Self::new(what, got)
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let got = match unexpected {
            Unexpected::Bool(x) => Got::Value(x.to_string()),
            Unexpected::Unsigned(x) => Got::Value(x.to_string()),
            Unexpected::Signed(x) => Got::Value(x.to_string()),
            Unexpected::Float(x) => Got::Value(shown(&x.into())),
            Unexpected::Str(x) => Got::Value(shown(&x.into())),
            Unexpected::Unit => Got::Value("null".into()),
            _ => Got::Here,
        };
        Self::new(format!("expected {}", words(expected)), got)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}", words(expected)), Got::Here)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let got = Got::Value(shown(&variant.into()));
        let hint = did_you_mean(variant, expected.iter().copied());
        // The whole list is there already.
        Self { hint: Some(hint).filter(|hint| hint.starts_with("did")), ..Self::new(one_of(expected), got) }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let fault = Self::new(format!("unknown field `{field}`"), Got::Said);
        Self { hint: Some(did_you_mean(field, expected.iter().copied())), ..fault }
    }
}

fn one_of(words: &[&str]) -> String {
    format!("expected one of {}", words.join(", "))
}

/// A value that is read.
#[derive(Clone, Copy)]
pub struct At<'de>(pub &'de Value);

impl<'de> Deserializer<'de> for At<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(x) => visitor.visit_bool(*x),
            Value::Number(x) => match (x.as_u64(), x.as_i64(), x.as_f64()) {
                (Some(x), ..) => visitor.visit_u64(x),
                (_, Some(x), _) => visitor.visit_i64(x),
                (.., x) => visitor.visit_f64(x.unwrap_or(f64::NAN)),
            },
            Value::String(x) => visitor.visit_borrowed_str(x),
            Value::Array(items) => visitor.visit_seq(Items { all: items.iter(), next: 0 }),
            Value::Object(fields) => visitor.visit_map(Fields { all: fields.iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// A list of as many as are wanted: serde itself would not look whether there are more.
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Array(items) if items.len() != len => {
                Err(de::Error::invalid_length(items.len(), &visitor))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    /// Of an object only: serde would read the fields of a list, too, by their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Object(_) => self.deserialize_any(visitor),
            _ => Err(Fault::new("expected an object".into(), Got::Here)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(word) => {
                let word: StrDeserializer<'_, Fault> = word.as_str().into_deserializer();
                word.deserialize_enum(name, variants, visitor)
            }
            Value::Object(_) => self.0.deserialize_enum(name, variants, visitor).map_err(de::Error::custom),
            _ => Err(Fault::new(one_of(variants), Got::Here)),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple_struct map identifier ignored_any
    }
}

/// The elements of a list that are left.
struct Items<'de> {
    all: slice::Iter<'de, Value>,
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(value) = self.all.next() else { return Ok(None) };
        let name = format!("[{}]", self.next);
        self.next += 1;
        seed.deserialize(At(value)).map(Some).map_err(|fault| fault.within(name, value))
    }
}

/// The fields of an object that are left.
struct Fields<'de> {
    all: map::Iter<'de>,
    value: Option<(&'de String, &'de Value)>,
}

impl<'de> de::MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        self.value = self.all.next();
        let Some((name, _)) = self.value else { return Ok(None) };
        let name: StrDeserializer<'_, Fault> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((name, value)) = self.value.take() else {
            return Err(de::Error::custom("a value without a name"));
        };
        seed.deserialize(At(value)).map_err(|fault| fault.within(format!(".{name}"), value))
    }
}
