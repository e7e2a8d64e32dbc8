//! What one forward of the fused encoder, and its backward, need beside the blocks: the batch's ids, dropout's sites, and what is
//! kept.

use std::sync::Arc;

use crate::batch::{Batch, Draw};
use crate::kernels::dropout::{Site, TokenNumber};
use crate::kernels::tiles::{Element, Kernels};
use crate::model::family::EncoderConfig;
use crate::model::fused::block::sized;
use crate::model::fused::packed::Packed;
use crate::tensor::rng::stream_hash;

/// The ids of a batch's tokens.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) ids: Vec<u32>,
    pub(super) types: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) types_are_tokens: bool,
}

/// One site's dropout of token rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Dropout {
    site: Option<(Site, Arc<[TokenNumber]>)>,
}

/// What one forward, and its backward, need beside the blocks.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) kernels: &'static Kernels,
    pub(super) packed: Arc<Packed>,
    pub(super) inputs: Inputs,
    /// Where rows start in the batch, and how many of their tokens are keys.
    pub(super) starts: Vec<usize>,
    pub(super) key_lengths: Vec<usize>,
    /// What the backward will find.
    pub(super) keep: Keep,
    /// Whether the batch is one block of so few tokens that the threads share its products, instead of blocks.
    pub(super) has_few_rows: bool,
    pub(super) embedding_dropout: Dropout,
    pub(super) layers: Vec<LayerPass>,
}

impl Pass {
    /// Whether what is kept between products is rounded to bf16, as the products round it.
    pub(super) fn rounds(&self) -> bool {
        matches!(self.kernels.element, Element::RoundedF32 | Element::Bf16(1))
    }
}

/// What a forward keeps for the backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Nothing: there is none.
    Nothing,
    /// The inputs of the layers, which are computed again.
    Inputs,
    /// What each layer needs.
    Everything,
}

impl Keep {
    /// Which of a block's memories a layer uses: one of its own where all is kept.
    pub(super) fn memory_of(self, layer: usize) -> usize {
        if self == Keep::Everything { layer } else { 0 }
    }
}

/// What is particular to one layer of a pass.
#[derive(Debug)]
pub(super) struct LayerPass {
    pub(super) scale: f32,
    /// The heads' sites, with the tokens' numbers.
    pub(super) attention_dropout: Option<(Vec<Site>, Arc<[TokenNumber]>)>,
    /// Behind attention's output, and behind the feed-forward part.
    pub(super) dropout: [Dropout; 2],
}

impl Dropout {
    pub(super) fn new(draw: Option<Draw>, p: f64, name: &str, numbers: &Arc<[TokenNumber]>) -> Self {
        let site = draw.filter(|_| p > 0.0).map(|draw| Site::new(draw.seed, draw.step, stream_hash(name), p));
        Dropout { site: site.map(|site| (site, numbers.clone())) }
    }

    /// The factors of a token's row; `None` where nothing is dropped.
    pub(super) fn factors<'a>(&self, token: usize, width: usize, factors: &'a mut Vec<f32>) -> Option<&'a [f32]> {
        let (site, numbers) = self.site.as_ref()?;
        let factors = sized(factors, width);
        site.factors(numbers[token], factors);
        Some(factors)
    }
}

impl LayerPass {
    pub(super) fn new(
        number: usize,
        scale: f32,
        config: &EncoderConfig,
        batch: &Batch,
        numbers: &Arc<[TokenNumber]>,
    ) -> Self {
        let site = |name: &str, p| Dropout::new(batch.draw, p, &format!("layer.{number}.{name}"), numbers);
        let attention = batch.draw.filter(|_| config.attention_dropout > 0.0).map(|draw| {
            let head = |head: usize| {
                let name = stream_hash(&format!("layer.{number}.attention.{head}"));
                Site::new(draw.seed, draw.step, name, config.attention_dropout)
            };
            ((0..config.n_heads).map(head).collect(), numbers.clone())
        });
        LayerPass {
            scale,
            attention_dropout: attention,
            dropout: [site("attention.output", config.hidden_dropout), site("output", config.hidden_dropout)],
        }
    }
}
