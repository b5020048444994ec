//! A snapshot as a view: lookups and scans over its runs.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::cache::Cache;
use super::chunk::Block;
use super::run::{ChunkRef, Run};
use crate::engine::{Direction, Scanned, Value, View, Visit};
use crate::key::Key;
use crate::missing::Missing;
use crate::store::MetaError;

/// All keys of a snapshot.
pub(crate) struct Snapshot<'a> {
    /// Newest first.
    pub(crate) runs: &'a [Run],
    /// Where their blocks come from.
    pub(crate) cache: &'a Cache,
}

impl View for Snapshot<'_> {
    fn get(&self, key: &Key) -> Result<Option<Value>, MetaError> {
        let mut chunks = self.runs.iter().filter_map(|run| run.find(key));
        let look = |chunk| self.cache.block(chunk, self.cache.find(chunk, key)?);
        while let Some(chunk) = chunks.next() {
            match look(chunk).map(|block| block.get(key)) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                // The run that has the key is mostly an older one: those are asked for at once.
                Err(missed) => {
                    let older = chunks.map(|chunk| look(chunk).map(drop));
                    return gather(std::iter::once(Err(missed)).chain(older)).map(|_| None);
                }
            }
        }
        Ok(None)
    }

    fn scan(&self, range: Range<Key>, direction: Direction, visit: &mut Visit<'_>) -> Scanned {
        let start = |run| Cursor::start(run, self.cache, &range, direction);
        let mut cursors = gather(self.runs.iter().map(start))?;
        loop {
            // The key that is next in order, of the newest run that has it.
            let mut next: Option<(usize, Key)> = None;
            for (number, cursor) in cursors.iter().enumerate() {
                let Some(key) = cursor.key() else { continue };
                if next.is_none_or(|(_, least)| direction.before(&key, &least)) {
                    next = Some((number, key));
                }
            }
            let Some((newest, key)) = next else { return Ok(ControlFlow::Continue(())) };
            let block = cursors[newest].block.clone();
            let at = cursors[newest].entry;
            for cursor in cursors.iter_mut().filter(|cursor| cursor.key() == Some(key)) {
                cursor.advance(self.cache)?;
            }
            let block = block.expect("a cursor with a key has its block");
            if let (_, Some(value)) = block.entry(at)
                && visit(&key, value)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
}

/// The answers of several looks; what is missing of all of them, if it is of one.
fn gather<T>(looks: impl Iterator<Item = Result<T, MetaError>>) -> Result<Vec<T>, MetaError> {
    let (mut found, mut missing) = (Vec::new(), Missing::default());
    for look in looks {
        match look {
            Ok(answer) => found.push(answer),
            Err(MetaError::Elsewhere(more)) => missing.add(more),
            Err(error) => return Err(error),
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(MetaError::Elsewhere(missing)) }
}

/// A place in a run, moving through a range of keys.
struct Cursor<'a> {
    chunks: &'a [ChunkRef],
    range: Range<Key>,
    direction: Direction,
    /// Of the chunks, those that may have keys of the range and were not left behind.
    left: Range<usize>,
    /// Of the chunk at hand.
    number: u32,
    /// `None`: past the range.
    block: Option<Arc<Block>>,
    entry: usize,
}

impl<'a> Cursor<'a> {
    fn start(
        run: &'a Run,
        cache: &Cache,
        range: &Range<Key>,
        direction: Direction,
    ) -> Result<Self, MetaError> {
        let mut cursor = Self {
            chunks: &run.chunks,
            left: run.within(range),
            range: range.clone(),
            direction,
            number: 0,
            block: None,
            entry: 0,
        };
        cursor.enter_chunk(cache, true)?;
        Ok(cursor)
    }

    fn chunk(&self) -> Option<&'a ChunkRef> {
        let at = match self.direction {
            Direction::Forward => self.left.start,
            Direction::Backward => self.left.end.checked_sub(1)?,
        };
        (!self.left.is_empty()).then(|| &self.chunks[at])
    }

    /// Goes to the first entry of the chunk at hand, in order; where the range begins, if it is the first.
    fn enter_chunk(&mut self, cache: &Cache, first: bool) -> Result<(), MetaError> {
        self.block = None;
        let Some(chunk) = self.chunk() else { return Ok(()) };
        self.number = match (self.direction, first) {
            (Direction::Forward, true) => cache.find(chunk, &self.range.start)?,
            (Direction::Forward, false) => 0,
            (Direction::Backward, true) => cache.find(chunk, &self.range.end)?,
            (Direction::Backward, false) => cache.blocks_of(chunk)? - 1,
        };
        self.enter_block(cache, chunk, first)
    }

    fn enter_block(
        &mut self,
        cache: &Cache,
        chunk: &ChunkRef,
        first: bool,
    ) -> Result<(), MetaError> {
        let block = cache.block(chunk, self.number)?;
        let entry = match (self.direction, first) {
            (Direction::Forward, true) => Some(block.seek(&self.range.start)),
            (Direction::Forward, false) => Some(0),
            (Direction::Backward, true) => block.seek(&self.range.end).checked_sub(1),
            (Direction::Backward, false) => block.len().checked_sub(1),
        };
        match entry {
            Some(entry) if entry < block.len() => {
                self.entry = entry;
                self.block = Some(block);
                self.end_with_range();
                Ok(())
            }
            _ => self.next_block(cache),
        }
    }

    fn next_block(&mut self, cache: &Cache) -> Result<(), MetaError> {
        let chunk = self.chunk().expect("a block is of a chunk");
        let next = match self.direction {
            Direction::Forward => {
                Some(self.number + 1).filter(|next| cache.blocks_of(chunk).is_ok_and(|n| *next < n))
            }
            Direction::Backward => self.number.checked_sub(1),
        };
        if let Some(next) = next {
            self.number = next;
            return self.enter_block(cache, chunk, false);
        }
        match self.direction {
            Direction::Forward => self.left.start += 1,
            Direction::Backward => self.left.end -= 1,
        }
        self.enter_chunk(cache, false)
    }

    /// The key it is at.
    fn key(&self) -> Option<Key> {
        self.block.as_ref().map(|block| block.entry(self.entry).0)
    }

    /// Past the range there is nothing.
    fn end_with_range(&mut self) {
        if self.key().is_some_and(|key| !self.range.contains(&key)) {
            self.block = None;
            self.left = 0..0;
        }
    }

    fn advance(&mut self, cache: &Cache) -> Result<(), MetaError> {
        let Some(block) = &self.block else { return Ok(()) };
        let next = match self.direction {
            Direction::Forward => Some(self.entry + 1).filter(|next| *next < block.len()),
            Direction::Backward => self.entry.checked_sub(1),
        };
        match next {
            Some(next) => {
                self.entry = next;
                self.end_with_range();
                Ok(())
            }
            None => self.next_block(cache),
        }
    }
}
