//! Answers of the API against its description.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// An answer is as it is described.
pub fn answers(
    described: &Value,
    path: &str,
    method: &str,
    status: &str,
    said: &Value,
) -> Result<()> {
    let content = &described["paths"][path][method]["responses"][status]["content"];
    let schema = &content["application/json"]["schema"];
    ensure!(schema.is_object(), "{method} {path} is not described");
    has_fields(described, schema, said).with_context(|| format!("{method} {path}: {said}"))
}

/// It has all fields that it has to have, and no others than are named, at any depth.
pub fn has_fields(described: &Value, schema: &Value, said: &Value) -> Result<()> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap_or_default();
        return has_fields(described, &described["components"]["schemas"][name], said);
    }
    for one in said.as_array().into_iter().flatten() {
        has_fields(described, &schema["items"], one)?;
    }
    let (Some(named), Some(fields)) = (schema["properties"].as_object(), said.as_object()) else {
        return Ok(());
    };
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().unwrap_or_default();
        ensure!(fields.contains_key(name), "{name} is missing");
    }
    for (name, value) in fields {
        let schema = named.get(name).with_context(|| format!("{name} is not described"))?;
        has_fields(described, schema, value)?;
    }
    Ok(())
}
