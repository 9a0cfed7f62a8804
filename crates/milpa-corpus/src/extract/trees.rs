//! A sum of decision trees: a row of numbers becomes a score.
//!
//! `model.bin` and `article.bin` are written by `reference/extraction_train.py` from trees of LightGBM: `MLPTREE1`,
//! the number of trees and of features, then for each tree its nodes (feature, threshold, left,
//! right; feature 0xFFFF is a leaf whose threshold is its score), all little-endian. It knows
//! nothing of pages.

use std::sync::LazyLock;

/// Begins a file of trees.
const MAGIC: &[u8] = b"MLPTREE1";
/// Stands for the feature in a leaf.
const LEAF: u16 = 0xFFFF;
/// Bytes of a node in the file.
const NODE_BYTES: usize = 10;

/// Decision trees whose scores are added.
#[derive(Debug)]
pub struct Trees {
    features: usize,
    /// All nodes; children are places in it.
    nodes: Vec<Node>,
    roots: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    feature: u16,
    /// Rows with at most this go left; the score in a leaf.
    threshold: f32,
    left: u32,
    right: u32,
}

impl Trees {
    /// The trees that tell a page's text from the rest, by the rows of its blocks.
    pub fn blocks() -> &'static Self {
        static TREES: LazyLock<Trees> = LazyLock::new(|| {
            Trees::parse(include_bytes!("model.bin")).expect("the embedded trees are well formed")
        });
        &TREES
    }

    /// The trees that tell articles from other pages.
    pub fn articles() -> &'static Self {
        static TREES: LazyLock<Trees> = LazyLock::new(|| {
            Trees::parse(include_bytes!("article.bin")).expect("the embedded trees are well formed")
        });
        &TREES
    }

    /// Reads trees; `None` if the bytes are no such file.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let count = take_u16(&mut rest)?;
        let features = usize::from(take_u16(&mut rest)?);
        let (mut nodes, mut roots) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let root = nodes.len() as u32;
            roots.push(root);
            let size = usize::from(take_u16(&mut rest)?);
            if size == 0 || rest.len() < size * NODE_BYTES {
                return None;
            }
            for at in 0..size {
                let feature = take_u16(&mut rest)?;
                let (number, after) = rest.split_first_chunk()?;
                rest = after;
                let (left, right) = (take_u16(&mut rest)?, take_u16(&mut rest)?);
                // Children stand after their parent, so every walk ends.
                let sound = |child: u16| usize::from(child) > at && usize::from(child) < size;
                let inner = sound(left) && sound(right) && usize::from(feature) < features;
                if feature != LEAF && !inner {
                    return None;
                }
                nodes.push(Node {
                    feature,
                    threshold: f32::from_le_bytes(*number),
                    left: root + u32::from(left),
                    right: root + u32::from(right),
                });
            }
        }
        rest.is_empty().then_some(Self { features, nodes, roots })
    }

    /// Numbers that a row must have.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The sum of all trees for a row, in the order of the trees: a log-odds.
    ///
    /// # Panics
    /// If the row has fewer numbers than [`Trees::features`].
    pub fn score(&self, row: &[f32]) -> f32 {
        assert!(row.len() >= self.features, "{} numbers of {}", row.len(), self.features);
        let mut sum = 0.0;
        for &root in &self.roots {
            let mut node = &self.nodes[root as usize];
            while node.feature != LEAF {
                let left = row[usize::from(node.feature)] <= node.threshold;
                node = &self.nodes[if left { node.left } else { node.right } as usize];
            }
            sum += node.threshold;
        }
        sum
    }
}

fn take_u16(bytes: &mut &[u8]) -> Option<u16> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::features::FEATURES;

    #[test]
    fn the_embedded_trees_score_as_lightgbm_does() {
        let trees = Trees::blocks();
        assert_eq!(trees.features(), FEATURES);
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("model_golden.json")).unwrap();
        for case in golden.as_array().unwrap() {
            let row: Vec<f32> = case["row"]
                .as_array()
                .unwrap()
                .iter()
                .map(|number| number.as_f64().unwrap() as f32)
                .collect();
            let (own, peer) = (trees.score(&row), case["score"].as_f64().unwrap() as f32);
            assert!((own - peer).abs() < 1e-3, "{own} {peer}");
        }
    }

    #[test]
    fn broken_files_are_refused() {
        let whole = include_bytes!("model.bin");
        for end in [0, 7, 8, 11, 12, 20, whole.len() - 1] {
            assert!(Trees::parse(&whole[..end]).is_none(), "{end}");
        }
        let loops = [MAGIC, &[1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert!(Trees::parse(&loops).is_none());
    }
}
