//! The description that the API serves of itself, and whether answers are as it says: their status, their kind, and of JSON every field,
//! with its type and, where there are only so many, its value.

use std::cell::RefCell;
use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::door::{Answer, Door};

/// An operation: its method in upper case, and its path as it is described.
pub type Operation<'a> = (&'a str, &'a str);

/// What the API says of itself.
pub struct Description {
    document: Value,
    /// Operations of which an answer was looked at that is no refusal.
    reached: RefCell<BTreeSet<(String, String)>>,
}

impl Description {
    /// Of the API at this door, for whoever may come in there.
    pub fn of(door: &Door) -> Result<Self> {
        let document = door.get("/api/v1/openapi.json")?.expect(200)?.json()?;
        Ok(Self { document, reached: RefCell::default() })
    }

    /// The answer is as it is described. Answers it.
    pub fn answers(&self, operation: Operation<'_>, answer: Answer) -> Result<Answer> {
        let (method, path) = operation;
        self.check(operation, &answer)
            .with_context(|| format!("{method} {path}: {} {:?}", answer.status, text(&answer)))?;
        Ok(answer)
    }

    /// What was said in JSON by an answer of this status is as it is described.
    pub fn says(&self, (method, path): Operation<'_>, status: u16, said: &Value) -> Result<()> {
        let operation = &self.document["paths"][path][method.to_lowercase()];
        let content = &operation["responses"][status.to_string()]["content"];
        self.fits(&content["application/json"]["schema"], said)
            .with_context(|| format!("{method} {path}: {status} {said}"))?;
        self.reached.borrow_mut().insert((method.to_owned(), path.to_owned()));
        Ok(())
    }

    fn check(&self, (method, path): Operation<'_>, answer: &Answer) -> Result<()> {
        let operation = &self.document["paths"][path][method.to_lowercase()];
        ensure!(operation.is_object(), "it is not described");
        let refused = answer.status >= 400;
        let responses = &operation["responses"];
        let response = match &responses[answer.status.to_string()] {
            Value::Null if refused => self.resolved(&responses["default"])?,
            Value::Null => bail!("this status is not described"),
            response => response,
        };
        match response["content"].as_object() {
            None => ensure!(answer.body.is_empty(), "it has a body, and none is described"),
            Some(content) => {
                let kind =
                    answer.headers.get("content-type").context("it does not say its kind")?;
                let schema =
                    content.get(kind).with_context(|| format!("{kind} is not described"))?;
                self.has_kind(kind, &schema["schema"], answer)?;
            }
        }
        if !refused {
            self.reached.borrow_mut().insert((method.to_owned(), path.to_owned()));
        }
        Ok(())
    }

    fn has_kind(&self, kind: &str, schema: &Value, answer: &Answer) -> Result<()> {
        match kind {
            "application/json" => self.fits(schema, &answer.json()?),
            "application/x-ndjson" => {
                let all = String::from_utf8_lossy(&answer.body);
                all.lines().try_for_each(|line| {
                    let said: Value =
                        serde_json::from_str(line).with_context(|| line.to_owned())?;
                    self.fits(schema, &said).with_context(|| line.to_owned())
                })
            }
            _ => Ok(()),
        }
    }

    /// Every operation that is described was reached, of the paths that are meant.
    pub fn is_reached(&self, is_meant: impl Fn(&str) -> bool) -> Result<()> {
        let paths = self.document["paths"].as_object().context("paths")?;
        let mut missing = Vec::new();
        for (path, methods) in paths.iter().filter(|(path, _)| is_meant(path)) {
            for method in methods.as_object().context("methods")?.keys() {
                let operation = (method.to_uppercase(), path.clone());
                if !self.reached.borrow().contains(&operation) {
                    missing.push(operation);
                }
            }
        }
        ensure!(missing.is_empty(), "no answer was looked at of {missing:?}");
        Ok(())
    }

    /// What a reference leads to, or what is none.
    fn resolved<'a>(&'a self, schema: &'a Value) -> Result<&'a Value> {
        let Some(name) = schema["$ref"].as_str() else { return Ok(schema) };
        let place = name.strip_prefix('#').with_context(|| format!("{name} is elsewhere"))?;
        self.document.pointer(place).with_context(|| format!("{name} leads nowhere"))
    }

    /// A value is as a schema has it, at any depth.
    fn fits(&self, schema: &Value, said: &Value) -> Result<()> {
        let schema = self.resolved(schema)?;
        ensure!(schema.is_object(), "what is said is not described: {said}");
        for (word, most) in [("oneOf", 1), ("anyOf", usize::MAX)] {
            if let Some(ways) = schema[word].as_array() {
                let tried: Vec<Result<()>> = ways.iter().map(|way| self.fits(way, said)).collect();
                let count = tried.iter().filter(|tried| tried.is_ok()).count();
                ensure!((1..=most).contains(&count), "{said} fits {count} of the ways: {tried:?}");
                return Ok(());
            }
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            one => vec![one.as_str().context("a schema without a type")?],
        };
        ensure!(types.iter().any(|name| is_a(name, said)), "{said} is none of {types:?}");
        if let Some(values) = schema["enum"].as_array() {
            ensure!(values.contains(said), "{said} is none of {values:?}");
        }
        for (at, one) in said.as_array().into_iter().flatten().enumerate() {
            self.fits(&schema["items"], one).with_context(|| format!("[{at}]"))?;
        }
        let (Some(named), Some(fields)) = (schema["properties"].as_object(), said.as_object())
        else {
            return Ok(());
        };
        for required in schema["required"].as_array().into_iter().flatten() {
            let name = required.as_str().unwrap_or_default();
            ensure!(fields.contains_key(name), "{name} is missing");
        }
        for (name, value) in fields {
            let schema = named.get(name).with_context(|| format!("{name} is not described"))?;
            self.fits(schema, value).with_context(|| name.clone())?;
        }
        Ok(())
    }
}

/// Is a value of the type that has this name?
fn is_a(name: &str, said: &Value) -> bool {
    match name {
        "string" => said.is_string(),
        "integer" => said.is_i64() || said.is_u64(),
        "number" => said.is_number(),
        "boolean" => said.is_boolean(),
        "array" => said.is_array(),
        "object" => said.is_object(),
        "null" => said.is_null(),
        _ => false,
    }
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body[..answer.body.len().min(4000)]).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_as_described_is_found() {
        let schema = json!({
            "type": "object",
            "properties": {
                "kind": {"type": "string", "enum": ["file", "folder"]},
                "sizes": {"type": "array", "items": {"type": "integer"}},
                "next": {"type": ["string", "null"]},
                "either": {"oneOf": [{"type": "string"}, {"$ref": "#/number"}]},
            },
            "required": ["kind"],
        });
        let document = json!({"number": {"type": "integer"}});
        let described = Description { document, reached: RefCell::default() };
        for (said, fits) in [
            (json!({"kind": "file"}), true),
            (json!({"kind": "folder", "sizes": [1, 2], "next": null, "either": 7}), true),
            (json!({"kind": "link"}), false),
            (json!({"kind": 1}), false),
            (json!({"sizes": []}), false),
            (json!({"kind": "file", "sizes": [1, "2"]}), false),
            (json!({"kind": "file", "sizes": [1.5]}), false),
            (json!({"kind": "file", "next": 1}), false),
            (json!({"kind": "file", "either": null}), false),
            (json!({"kind": "file", "more": 1}), false),
            (json!([]), false),
        ] {
            assert_eq!(described.fits(&schema, &said).is_ok(), fits, "{said}");
        }
    }
}
