//! The OpenAPI 2 document in protobuf, for kubectl up to 1.26, which asks for nothing else.
//!
//! Only what such clients read is written: the definitions, their properties and the extensions
//! that name kinds. The numbers of the fields are those of `openapi.v2.Document` in
//! `openapiv2/OpenAPIv2.proto` of <https://github.com/google/gnostic-models>; the encoding is that
//! of <https://protobuf.dev/programming-guides/encoding/>.

use serde_json::{Map, Value};

/// The media type that such clients accept.
pub(super) const ACCEPTED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The media type of the answer: newer clients find no media type in one with an `@`.
pub(super) const MEDIA: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap_or(0));
    }

    /// A field of wire type 2: texts and messages.
    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(u64::try_from(bytes.len()).unwrap_or(0));
        self.0.extend_from_slice(bytes);
        self
    }

    /// A text; nothing when it is empty, which is the default.
    fn text(self, field: u64, text: &str) -> Self {
        if text.is_empty() { self } else { self.bytes(field, text.as_bytes()) }
    }

    fn message(self, field: u64, message: Message) -> Self {
        self.bytes(field, &message.0)
    }
}

/// The document as protobuf. `document` is the JSON form.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let info = Message::default()
        .text(1, &text(&document["info"]["title"]))
        .text(2, &text(&document["info"]["version"]));
    Message::default()
        .text(1, &text(&document["swagger"]))
        .message(2, info)
        .message(8, Message::default())
        .message(9, named_schemas(document["definitions"].as_object()))
        .0
}

/// `Definitions` and `Properties` look alike: a list of names with schemas.
fn named_schemas(schemas: Option<&Map<String, Value>>) -> Message {
    schemas.into_iter().flatten().fold(Message::default(), |all, (name, value)| {
        all.message(1, Message::default().text(1, name).message(2, schema(value)))
    })
}

fn schema(value: &Value) -> Message {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let mut out = Message::default().text(2, text("format")).text(4, text("description"));
    for name in value["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out = out.text(19, name);
    }
    for word in value["enum"].as_array().into_iter().flatten() {
        out = out.message(20, yaml(word));
    }
    if value["additionalProperties"].is_object() {
        let item = Message::default().message(1, schema(&value["additionalProperties"]));
        out = out.message(21, item);
    }
    if !text("type").is_empty() {
        out = out.message(22, Message::default().text(1, text("type")));
    }
    if value["items"].is_object() {
        out = out.message(23, Message::default().message(1, schema(&value["items"])));
    }
    if value["properties"].is_object() {
        out = out.message(25, named_schemas(value["properties"].as_object()));
    }
    let extensions = value.as_object().into_iter().flatten();
    for (name, extension) in extensions.filter(|(name, _)| name.starts_with("x-")) {
        out = out.message(31, Message::default().text(1, name).message(2, yaml(extension)));
    }
    out
}

/// `Any`: YAML text, of which JSON is a part.
fn yaml(value: &Value) -> Message {
    Message::default().text(2, &value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_encoding_is_that_of_protobuf() {
        let message = Message::default().text(1, "ab").text(2, "").message(31, Message::default());
        assert_eq!(message.0, [0x0a, 2, b'a', b'b', 0xfa, 1, 0]);
        let long = Message::default().text(1, &"x".repeat(300));
        assert_eq!(long.0[..3], [0x0a, 0xac, 2]);
    }

    #[test]
    fn a_schema_carries_type_properties_and_extensions() {
        let value = json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-k": [1]});
        let want = Message::default()
            .message(22, Message::default().text(1, "object"))
            .message(25, named_schemas(json!({"a": {"type": "string"}}).as_object()))
            .message(
                31,
                Message::default().text(1, "x-k").message(2, Message::default().text(2, "[1]")),
            );
        assert_eq!(schema(&value).0, want.0);
    }
}
