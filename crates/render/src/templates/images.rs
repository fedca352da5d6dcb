//! `cid:` images: what HTML shows as `cid:logo.png` and the kind's folder (or a shared one) holds goes with the mail.
//!
//! Invariants: each image once, under an id that follows from its bytes; one that is nowhere is an error. What the
//! notification itself attaches under that id is left alone.

use std::collections::BTreeMap;

use hapax_core::envelope::Attachment;
use sha2::{Digest, Sha256};

use crate::{
    error::{Problem, quoted},
    source::{Files, image_type},
};

/// All images, by path.
pub(super) struct Images(BTreeMap<String, Vec<u8>>);

impl Images {
    pub(super) fn new(files: Files) -> Self {
        Self(files.into_iter().filter(|(name, _)| image_type(name).is_some()).collect())
    }

    /// The HTML with the final ids, and what must be attached for it.
    pub(super) fn attach(
        &self,
        kind: &str,
        file: &str,
        html: String,
        own: &[Attachment],
    ) -> Result<(String, Vec<Attachment>), Problem> {
        let mut attached: Vec<Attachment> = Vec::new();
        let mut out = String::new();
        let mut copied = 0;
        for (from, to) in references(&html) {
            let name = html[from..to].replace("&#x2f;", "/");
            if own.iter().any(|own| own.content_id.as_deref().map(bare) == Some(name.as_str())) {
                continue;
            }
            let Some((path, bytes)) = self.find(kind, &name) else {
                let what = format!("cid:{} names no image of this kind, of _* or of the notification", quoted(&name));
                return Err(Problem::new(file, None, what));
            };
            let id = content_id(bytes);
            if !attached.iter().any(|attachment| attachment.content_id.as_deref() == Some(id.as_str())) {
                attached.push(Attachment {
                    filename: path.rsplit('/').next().unwrap_or(path).to_owned(),
                    content_type: image_type(path).unwrap_or("application/octet-stream").to_owned(),
                    content_id: Some(id.clone()),
                    content: bytes.clone().into(),
                });
            }
            out.push_str(&html[copied..from]);
            out.push_str(&id);
            copied = to;
        }
        if copied == 0 {
            return Ok((html, attached));
        }
        out.push_str(&html[copied..]);
        Ok((out, attached))
    }

    fn find(&self, kind: &str, name: &str) -> Option<(&str, &Vec<u8>)> {
        let own = format!("{kind}/{name}");
        let shared = || {
            self.0
                .iter()
                .find(|(path, _)| path.starts_with('_') && path.split_once('/').is_some_and(|(_, rest)| rest == name))
        };
        self.0.get_key_value(&own).or_else(shared).map(|(path, bytes)| (path.as_str(), bytes))
    }
}

fn bare(id: &str) -> &str {
    let id = id.trim();
    id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id)
}

/// From the bytes, so that it is the same in every message.
fn content_id(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}@image.hapax")
}

/// Where names stand after `cid:` in an attribute or a style.
fn references(html: &str) -> Vec<(usize, usize)> {
    let bytes = html.as_bytes();
    let starts = memchr::memmem::find_iter(bytes, b"cid:");
    let quotes = |at: usize| at.checked_sub(1).and_then(|at| bytes.get(at)).copied();
    starts
        .filter(|at| matches!(quotes(*at), Some(b'"' | b'\'' | b'(' | b'=' | b';')))
        .map(|at| {
            let from = at + 4;
            let ends = |byte: &u8| matches!(byte, b'"' | b'\'' | b')' | b'>' | b'<') || byte.is_ascii_whitespace();
            let length = bytes[from..].iter().position(ends).unwrap_or(bytes.len() - from);
            (from, from + length)
        })
        .filter(|(from, to)| from < to)
        .collect()
}
