//! How a source is cut into samples: rows of a fixed number of positions.
//!
//! Windows run over the ends of documents. Best-fit packing puts whole documents into rows, cuts only
//! those that are longer than a row, and crops nothing (Ding et al. 2024, arXiv:2404.10830). It knows
//! no order; that is `staged.rs`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{dataset::SourceTokens, error::TokensError, loader::Batch};

/// How sources are cut into samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Documents one after the other, cut every `sequence_length` tokens; attention goes across them.
    #[default]
    Windows,
    /// Whole documents in rows by best fit; attention stays within a document.
    BestFit,
}

/// What packing did to a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackingCounts {
    /// Samples of one pass.
    pub samples: u64,
    /// Documents that are longer than a row and were cut; of windows, 0.
    pub documents_cut: u64,
    /// Positions of one pass that hold no token to learn from.
    pub padding: u64,
    /// Tokens at the end of the source that fill no window and are left out.
    pub left_out: u64,
}

/// The samples of a source.
#[derive(Debug)]
pub(crate) struct Samples<'a> {
    pub(crate) tokens: &'a SourceTokens,
    sequence_length: usize,
    rows: Option<Rows>,
    pub(crate) counts: PackingCounts,
}

/// Rows of pieces of documents.
#[derive(Debug)]
struct Rows {
    /// First piece of each row, and the end of the last.
    first_piece: Vec<u32>,
    pieces: Vec<Piece>,
}

/// Tokens `start..start + length` of the source; they are what a row is to predict.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u64,
    length: u32,
}

impl<'a> Samples<'a> {
    /// Cuts a source.
    pub(crate) fn new(
        tokens: &'a SourceTokens,
        packing: Packing,
        sequence_length: usize,
    ) -> Result<Self, TokensError> {
        let length = sequence_length as u64;
        match packing {
            Packing::Windows => {
                let samples = tokens.window_count(sequence_length);
                let left_out = tokens.len().saturating_sub(samples * length);
                let counts = PackingCounts { samples, left_out, ..PackingCounts::default() };
                Ok(Self { tokens, sequence_length, rows: None, counts })
            }
            Packing::BestFit => {
                let (rows, documents_cut) = best_fit(tokens, sequence_length)?;
                let samples = rows.first_piece.len() as u64 - 1;
                let padding = (samples * length).saturating_sub(tokens.len());
                let counts = PackingCounts { samples, documents_cut, padding, left_out: 0 };
                Ok(Self { tokens, sequence_length, rows: Some(rows), counts })
            }
        }
    }

    /// Appends a sample to `batch` as its next row.
    pub(crate) fn read(
        &self,
        sample: u64,
        eos_id: u32,
        batch: &mut Batch,
    ) -> Result<(), TokensError> {
        let Some(rows) = &self.rows else {
            return self.tokens.read_window(sample, eos_id, batch);
        };
        let row = batch.tokens_bt.len();
        for (number, piece) in rows.of(sample).iter().enumerate() {
            // Each token is predicted from the one before; the first of a source from an end of text.
            let end = piece.start + u64::from(piece.length);
            if piece.start == 0 {
                batch.tokens_bt.push(eos_id);
            }
            self.tokens.read(piece.start.saturating_sub(1)..end - 1, &mut batch.tokens_bt)?;
            self.tokens.read(piece.start..end, &mut batch.targets_bt)?;
            batch.documents_bt.resize(batch.tokens_bt.len(), number as u32);
        }
        let used = batch.tokens_bt.len() - row;
        let pieces = rows.of(sample).len() as u32;
        for (ids, filler) in [
            (&mut batch.tokens_bt, eos_id),
            (&mut batch.targets_bt, eos_id),
            (&mut batch.documents_bt, pieces),
        ] {
            ids.resize(row + self.sequence_length, filler);
        }
        batch.lengths_b.push(used as u32);
        batch.batch_size += 1;
        Ok(())
    }

    /// The ranges of the source's tokens that a sample learns to predict.
    pub(crate) fn ranges(&self, sample: u64) -> Vec<std::ops::Range<u64>> {
        match &self.rows {
            None => {
                let start = sample * self.sequence_length as u64 + 1;
                std::iter::once(start..start + self.sequence_length as u64).collect()
            }
            Some(rows) => rows
                .of(sample)
                .iter()
                .map(|piece| piece.start..piece.start + u64::from(piece.length))
                .collect(),
        }
    }
}

impl Rows {
    fn of(&self, sample: u64) -> &[Piece] {
        let sample = sample as usize;
        &self.pieces[self.first_piece[sample] as usize..self.first_piece[sample + 1] as usize]
    }
}

/// Packs the pieces of all documents from the longest to the shortest, each into the fullest row
/// that has room for it. Returns the rows and how many documents were cut.
fn best_fit(tokens: &SourceTokens, sequence_length: usize) -> Result<(Rows, u64), TokensError> {
    let row_length = sequence_length as u64;
    let mut pieces = Vec::new();
    let mut documents_cut = 0;
    for document in 0..tokens.documents() {
        let Some(range) = tokens.document_range(document)? else { break };
        documents_cut += u64::from(range.end - range.start > row_length);
        let mut start = range.start;
        while start < range.end {
            let length = (range.end - start).min(row_length);
            pieces.push(Piece { start, length: length as u32 });
            start += length;
        }
    }
    if u32::try_from(pieces.len()).is_err() {
        return Err(TokensError::Loader(format!(
            "the source {:?} has {} documents and pieces, more than best_fit packs; split the source \
             in two, or use packing = \"windows\"",
            tokens.name,
            pieces.len()
        )));
    }
    let mut by_length: Vec<u32> = (0..pieces.len() as u32).collect();
    by_length.sort_by_key(|&piece| std::cmp::Reverse(pieces[piece as usize].length));
    // Rows with room left, as (room, row): the first one that is large enough is the fullest.
    let mut open: BTreeSet<(u32, u32)> = BTreeSet::new();
    let mut row_of = vec![0; pieces.len()];
    let mut rows = 0;
    for piece in by_length {
        let length = pieces[piece as usize].length;
        let found = open.range((length, 0)..).next().copied();
        let (room, row) = if let Some(place) = found {
            open.remove(&place);
            place
        } else {
            rows += 1;
            (sequence_length as u32, rows - 1)
        };
        row_of[piece as usize] = row;
        if room > length {
            open.insert((room - length, row));
        }
    }
    // Pieces row by row; within a row in the order of the source.
    let mut first_piece = vec![0u32; rows as usize + 1];
    for &row in &row_of {
        first_piece[row as usize + 1] += 1;
    }
    for row in 0..rows as usize {
        first_piece[row + 1] += first_piece[row];
    }
    let mut next = first_piece.clone();
    let mut placed = vec![Piece { start: 0, length: 0 }; pieces.len()];
    for (piece, row) in pieces.into_iter().zip(row_of) {
        placed[next[row as usize] as usize] = piece;
        next[row as usize] += 1;
    }
    Ok((Rows { first_piece, pieces: placed }, documents_cut))
}
