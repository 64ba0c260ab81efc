//! JSON of strangers: no member twice, not too deep, not too much.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::serve::limits::{JSON_DEPTH_MAX, JSON_ITEMS_MAX};

/// Reads one JSON object.
///
/// # Errors
/// When it is no object, holds a member twice (RFC 8725 §2.8: readers that differ in which one counts can be told apart), nests
/// deeper than 16, or holds more than 1,024 members and items.
pub fn object(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut left = JSON_ITEMS_MAX;
    let value = Strict { depth: JSON_DEPTH_MAX, left: &mut left }.deserialize(&mut reader)?;
    reader.end()?;
    if let Value::Object(object) = value {
        Ok(object)
    } else {
        Err(serde_json::Error::custom("is not an object"))
    }
}

struct Strict<'a> {
    depth: usize,
    left: &'a mut usize,
}

impl Strict<'_> {
    fn inner<E: Error>(&mut self) -> Result<Strict<'_>, E> {
        *self.left = self.left.checked_sub(1).ok_or_else(|| E::custom("holds too much"))?;
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("is too deep"))?;
        Ok(Strict { depth, left: self.left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("is no number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.inner()?)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self.inner()?)?;
            if object.contains_key(&name) {
                return Err(A::Error::custom("holds a member twice"));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_objects_are_read() {
        let deep = |levels| format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
        let wide = |items| format!("{{\"a\":[{}1]}}", "1,".repeat(items));
        for good in ["{}", r#"{"a":1,"b":{"a":[true,null,"x",-1,1.5]}}"#, &deep(14), &wide(900)] {
            assert!(object(good.as_bytes()).is_ok(), "{good}");
        }
        let twice_inside = r#"{"a":{"b":1,"b":1}}"#;
        for bad in
            ["", "[]", "1", "{} {}", r#"{"a":1,"a":1}"#, twice_inside, &deep(17), &wide(1_100)]
        {
            assert!(object(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
    }
}
