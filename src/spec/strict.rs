//! JSON read strictly: an unknown field is an error that names the nearest known one, and a field said twice is one, too. A
//! value of another type is one that names the field and the value.

mod fault;

use crate::{Error, Result, Status};
use fault::At;
use serde::de::{self, DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Reads `T` from `value`; `place` (such as "psld.spec: network") opens every message.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value, status: Status, place: &str) -> Result<T> {
    // A struct would be read of an array, too, its fields by their order.
    let Value::Object(map) = &value else {
        return Err(Error::new(status, format!("{place}: expected a JSON object")));
    };
    let known = field_names::<T>();
    if let Some(name) = map.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(Error::new(status, format!("{place}: unknown field `{name}`"))
            .hint(did_you_mean(name, known.iter().copied())));
    }
    T::deserialize(At(&value)).map_err(|fault| {
        let error = Error::new(status, format!("{place}: {fault}"));
        match fault.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}

/// Reads a JSON text that must be an object.
pub(crate) fn parse(text: &str, status: Status, place: &str) -> Result<Value> {
    parse_fields(text, status, place).map(Value::Object)
}

/// The fields of a JSON text that must be an object.
pub(crate) fn parse_fields(text: &str, status: Status, place: &str) -> Result<Map<String, Value>> {
    let read = serde_json::from_str(without_mark(text));
    match read.map_err(|e| Error::new(status, format!("{place}: not valid JSON: {e}")))? {
        Once(Value::Object(fields)) => Ok(fields),
        Once(_) => Err(Error::new(status, format!("{place}: expected a JSON object"))),
    }
}

/// A JSON value whose objects name each field once; of two, [`Value`] would keep the last.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Once(value))) = fields.next_entry::<String, _>()? {
            if map.contains_key(&name) {
                return Err(de::Error::custom(format_args!("the field `{name}` is there twice")));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// "did you mean `x`?", or the whole list where nothing is near.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let nearest = known
        .clone()
        .map(|k| (strsim::jaro_winkler(name, k), k))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score > 0.78);
    match nearest {
        Some((_, k)) => format!("did you mean `{k}`?"),
        None => format!("known: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// The field names (aliases included) that `T`'s derived `Deserialize` announces.
fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Names<'a>(&'a mut &'static [&'static str]);
    impl<'de> de::Deserializer<'de> for Names<'_> {
        type Error = de::value::Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("only the field names are wanted"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            self.deserialize_any(visitor)
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names: &'static [&'static str] = &[];
    let _ = T::deserialize(Names(&mut names));
    names
}

/// A text without the byte order mark that it may begin with.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Status = Status::InvalidConfig;

    #[test]
    fn a_value_is_what_serde_json_reads() {
        let text = r#"{"a": [1, -2, 3.5e300, 18446744073709551615, 0.1, true, null, "\u00e4\n", {}, []], "b": {"a": 1, "c": {"a": 2}}}"#;
        assert_eq!(parse(text, BAD, "x").unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_field_said_twice_is_refused() {
        for text in [r#"{"a": 1, "a": 1}"#, r#"{"b": [{"c": {"a": 1, "d": 2, "a": 3}}]}"#] {
            let error = parse(text, BAD, "x").unwrap_err();
            assert!(error.message().contains("the field `a` is there twice at line 1"), "{error}");
        }
    }

    #[test]
    fn a_struct_is_no_array() {
        #[derive(Debug, Deserialize)]
        struct One {
            #[serde(default)]
            #[allow(dead_code)]
            a: u32,
        }
        from_value::<One>(serde_json::json!({}), BAD, "x").unwrap();
        for value in [serde_json::json!([]), serde_json::json!([1]), Value::Null, serde_json::json!("a")] {
            let error = from_value::<One>(value, BAD, "x").unwrap_err();
            assert_eq!(error.message(), "x: expected a JSON object");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        assert_eq!(parse("\u{feff}{\"a\": 1}\r\n", BAD, "x").unwrap(), serde_json::json!({"a": 1}));
    }

    /// Whatever is wrong with a value: the message names the field, wherever it stands, and the value as it was given.
    #[test]
    fn values_of_another_type() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct All {
            #[serde(default)]
            seed: Option<u64>,
            #[serde(default)]
            steps: Option<u32>,
            #[serde(default)]
            label: i64,
            #[serde(default)]
            eta: Option<f64>,
            #[serde(default)]
            name: Option<String>,
            #[serde(default)]
            path: Option<std::path::PathBuf>,
            #[serde(default)]
            clip: Option<bool>,
            #[serde(default)]
            interval: Option<[f64; 2]>,
            #[serde(default)]
            points: Vec<f64>,
            #[serde(default)]
            way: Option<Way>,
            #[serde(default)]
            inner: Option<Inner>,
            #[serde(default)]
            tagged: Option<Tagged>,
            #[serde(default)]
            either: Option<Either>,
        }
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Way {
            Fast,
            Slow,
        }
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Inner {
            deep: Vec<Option<u8>>,
        }
        #[derive(Debug, Deserialize)]
        #[serde(tag = "kind", rename_all = "lowercase")]
        #[allow(dead_code)]
        enum Tagged {
            Average { factor: usize, name: String },
        }
        #[derive(Debug, Deserialize)]
        #[serde(untagged, expecting = "expected a number, or a list of numbers")]
        #[allow(dead_code)]
        enum Either {
            One(f64),
            Many(Vec<f64>),
        }
        let said = |field: &str, json: &str| {
            let value = parse(&format!("{{\"{field}\": {json}}}"), BAD, "x").unwrap();
            from_value::<All>(value, BAD, "x").unwrap_err().to_string()
        };
        let whole = "a whole number from 0 to 18446744073709551615";
        for (field, json, expected, got) in [
            ("seed", "-1", whole, "-1"),
            ("seed", "1.5", whole, "1.5"),
            ("seed", "2.0", whole, "2.0"),
            ("seed", "18446744073709551616", whole, "18446744073709551616"),
            ("seed", "\"7\"", whole, "\"7\""),
            ("seed", "true", whole, "true"),
            ("seed", "[1, 2]", whole, "[1,2]"),
            ("seed", "{\"a\": 1}", whole, "{\"a\":1}"),
            ("steps", "4294967296", "a whole number from 0 to 4294967295", "4294967296"),
            ("label", "null", "a whole number from -9223372036854775808 to 9223372036854775807", "null"),
            ("eta", "\"0.5\"", "a number", "\"0.5\""),
            ("eta", "false", "a number", "false"),
            ("name", "5", "text", "5"),
            ("path", "[]", "text", "[]"),
            ("clip", "1", "true or false", "1"),
            ("clip", "\"yes\"", "true or false", "\"yes\""),
            ("points", "3", "a list", "3"),
            ("inner", "7", "an object", "7"),
            ("inner", "[[1]]", "an object", "[[1]]"),
            ("either", "\"many\"", "a number, or a list of numbers", "\"many\""),
        ] {
            assert_eq!(said(field, json), format!("x: {field}: expected {expected}, got {got}"));
        }
        assert_eq!(said("points", "[1, null]"), "x: points[1]: expected a number, got null");
        assert_eq!(
            said("inner", "{\"deep\": [1, null, 256]}"),
            "x: inner.deep[2]: expected a whole number from 0 to 255, got 256"
        );
        let short = said("interval", "[1]");
        assert_eq!(short, "x: interval: expected a list of 2, got [1]");
        assert_eq!(said("interval", "[1, 2, 3]"), "x: interval: expected a list of 2, got [1,2,3]");
        let other = said("way", "\"fats\"");
        assert_eq!(other, "x: way: expected one of fast, slow, got \"fats\"\nhint: did you mean `fast`?");
        assert_eq!(said("way", "1"), "x: way: expected one of fast, slow, got 1");
        assert_eq!(
            said("tagged", "{\"kind\": \"average\", \"name\": \"a\", \"factor\": -2}"),
            "x: tagged.factor: expected a whole number from 0 to 18446744073709551615, got -2"
        );
        // A type that says all by itself is not echoed.
        let clip = parse("{\"clip\": \"yes\"}", BAD, "x").unwrap();
        let said_of_clip = from_value::<crate::SamplerSpec>(clip, BAD, "x").unwrap_err().to_string();
        assert!(said_of_clip.starts_with("x: clip: expected true, false"), "{said_of_clip}");
        assert!(said_of_clip.ends_with("got \"yes\""), "{said_of_clip}");
        let long = said("seed", &format!("\"{}\"", "word ".repeat(1000)));
        assert!(long.len() < 250 && long.ends_with("..."), "{long}");
        // What is not given may be said to be so.
        let none = serde_json::json!({"seed": null, "way": null, "inner": null});
        from_value::<All>(none, BAD, "x").unwrap();
    }
}
