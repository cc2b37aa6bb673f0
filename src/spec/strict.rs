//! JSON read strictly: an unknown field is an error that names the nearest known one, and a field said twice is one, too.

use crate::{Error, Result, Status};
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
    serde_json::from_value(value).map_err(|e| Error::new(status, format!("{place}: {e}")))
}

/// Reads a JSON text that must be an object.
pub(crate) fn parse(text: &str, status: Status, place: &str) -> Result<Value> {
    parse_fields(text, status, place).map(Value::Object)
}

/// The fields of a JSON text that must be an object.
pub(crate) fn parse_fields(text: &str, status: Status, place: &str) -> Result<Map<String, Value>> {
    let read = serde_json::from_str(text);
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
}
