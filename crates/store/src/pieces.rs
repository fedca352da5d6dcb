//! Large contents, piece by piece: what is too large to come with its message.
//!
//! Each piece is one row, and the rows are read as they are wanted: the driver holds back the server, so that no more than
//! a few pieces are in memory, however large the whole.

use std::pin::pin;

use deadpool_postgres::Object;
use futures_util::TryStreamExt;
use hapax_core::{MessageId, envelope::Attachment};
use tokio::{sync::mpsc::Sender, time::timeout};
use tokio_postgres::types::Type;

use crate::{Store, Typed, error::Error, rows};

/// How large a piece is: whole lines of base64 (76 characters).
const PIECE_BYTES: i32 = 76 * 2048;

impl Store {
    /// What a message has attached, with contents to be read as [`Store::attachment_pieces`]. Takes long where they are large.
    ///
    /// # Errors
    /// Any of the statement's own, or an unreadable row. A message that is gone has no attachments.
    pub async fn attachments_of(&self, id: MessageId) -> Result<Vec<Attachment>, Error> {
        const OPERATION: &str = "attachments_of";
        let params: [Typed<'_>; 1] = [(&id.0, Type::UUID)];
        let rows = self.rows(OPERATION, include_str!("../queries/attachments_of.sql"), &params).await?;
        let Some(text) = rows.first().and_then(|row| row.get::<_, Option<String>>(0)) else { return Ok(Vec::new()) };
        rows::attachments(&text).map_err(|reason| Error::Row { operation: OPERATION, key: id.to_string(), reason })
    }

    /// The base64 text of an attachment (`element` counts from 1), without line ends: `taker` gets piece after piece, each but
    /// the last of a multiple of 76 characters. Ends early when nobody listens any more. Answers how many
    /// bytes there were: none when the message is gone.
    ///
    /// # Errors
    /// Any of the statement's own: what was taken is not all then.
    pub async fn attachment_pieces<T: Send>(
        &self,
        id: MessageId,
        element: i32,
        taker: &Sender<T>,
        wrap: fn(Vec<u8>) -> T,
    ) -> Result<u64, Error> {
        let params: [Typed<'_>; 3] = [(&id.0, Type::UUID), (&element, Type::INT4), (&PIECE_BYTES, Type::INT4)];
        self.pieces("attachment_pieces", include_str!("../queries/attachment_pieces.sql"), &params, taker, wrap).await
    }

    /// A finished message; as [`Store::attachment_pieces`].
    ///
    /// # Errors
    /// As there.
    pub async fn raw_pieces<T: Send>(
        &self,
        id: MessageId,
        taker: &Sender<T>,
        wrap: fn(Vec<u8>) -> T,
    ) -> Result<u64, Error> {
        let params: [Typed<'_>; 2] = [(&id.0, Type::UUID), (&PIECE_BYTES, Type::INT4)];
        self.pieces("raw_pieces", include_str!("../queries/raw_pieces.sql"), &params, taker, wrap).await
    }

    /// The time limit is for each piece. A connection with rows still to come is thrown away.
    async fn pieces<T: Send>(
        &self,
        operation: &'static str,
        sql: &str,
        params: &[Typed<'_>],
        taker: &Sender<T>,
        wrap: fn(Vec<u8>) -> T,
    ) -> Result<u64, Error> {
        // Not back into the pool before all is read.
        let client = Object::take(self.client(operation).await?);
        let limit = self.statement_timeout;
        let elapsed = |_elapsed| Error::Timeout { operation };
        let failed = |source| Error::query(operation, source);
        let typed = params.iter().map(|(value, kind)| (*value, kind.clone()));
        let rows = timeout(limit, client.query_typed_raw(sql, typed)).await.map_err(elapsed)?;
        let mut rows = pin!(rows.map_err(failed)?);
        let mut bytes = 0;
        while let Some(row) = timeout(limit, rows.try_next()).await.map_err(elapsed)?.map_err(failed)? {
            let piece: Vec<u8> = row.get(0);
            bytes += piece.len() as u64;
            if taker.send(wrap(piece)).await.is_err() {
                break;
            }
        }
        Ok(bytes)
    }
}
