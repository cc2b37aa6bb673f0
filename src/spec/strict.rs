//! JSON read strictly: an unknown field is an error that names the nearest known one.

use crate::{Error, Result, Status};
use serde::de::{self, DeserializeOwned, Visitor};
use serde_json::Value;

/// Reads `T` from `value`; `place` (such as "psld.spec: network") opens every message.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value, status: Status, place: &str) -> Result<T> {
    if let Value::Object(map) = &value {
        let known = field_names::<T>();
        if let Some(name) = map.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(Error::new(status, format!("{place}: unknown field `{name}`"))
                .hint(did_you_mean(name, known.iter().copied())));
        }
    }
    serde_json::from_value(value).map_err(|e| Error::new(status, format!("{place}: {e}")))
}

/// Reads a JSON text that must be an object.
pub(crate) fn parse(text: &str, status: Status, place: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text)
        .map_err(|e| Error::new(status, format!("{place}: not valid JSON: {e}")))?;
    if !value.is_object() {
        return Err(Error::new(status, format!("{place}: expected a JSON object")));
    }
    Ok(value)
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
