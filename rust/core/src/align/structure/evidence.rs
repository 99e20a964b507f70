//! What speaks for a pair, and how much: scores to choose by, and the confidence that is shown.

/// What is known of one pair of values. Scores are in units of about one natural log-odd.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// Their operations have the same weight (positive), or other ones (negative).
    pub(super) weight: f64,
    /// Their names say the same, or contradict each other.
    pub(super) name: f64,
    /// Agreement of operation families, −1 to 1.
    pub(super) family: f64,
    /// Agreement of the families of their readers, −1 to 1.
    pub(super) readers: f64,
    /// How plainly the shapes meet, 0 to 1.
    pub(super) shape: f64,
    /// How well the content agrees, 0 to 1; `None` where it does not tell.
    pub(super) content: Option<f64>,
    /// How far the matched values around them agree, −1 to 1.
    pub(super) flow: f64,
    /// How far their places in the block are apart, 0 to 1.
    pub(super) distance: f64,
    /// Share of the other blocks that pair the same two operations, less the share that pair others, −1 to 1.
    pub(super) vote: f64,
}

const WEIGHT: f64 = 6.0;
const NAME: f64 = 2.5;
const FAMILY: f64 = 2.0;
const READERS: f64 = 0.8;
const SHAPE: f64 = 1.0;
const CONTENT: f64 = 5.0;
const FLOW: f64 = 2.0;
const DISTANCE: f64 = 0.8;
const VOTE: f64 = 2.5;

/// A pair that scores less is none.
const LEAST: f64 = 1.0;
/// The margin over the next best pair at which ambiguity no longer matters.
const CLEAR: f64 = 1.5;

impl Evidence {
    /// What the pair is chosen by; `None` for one that is never chosen.
    pub(super) fn score(&self) -> Option<f64> {
        let score = WEIGHT * self.weight
            + NAME * self.name
            + FAMILY * self.family
            + READERS * self.readers
            + SHAPE * self.shape
            + CONTENT * self.content.unwrap_or(0.0)
            + FLOW * self.flow
            + VOTE * self.vote
            - DISTANCE * self.distance;
        (score > LEAST).then_some(score - LEAST)
    }

    /// Whether one of the kinds that stand alone speaks for the pair.
    pub(super) fn is_strong(&self) -> bool {
        self.weight > 0.5 || self.content.is_some_and(|c| c > 0.8) || self.name > 0.8
    }

    /// Confidence of a chosen pair: the chance that not all that speaks for it is mistaken, less what speaks for
    /// another partner. `margin` is the score above the next best pair of either.
    pub(super) fn confidence(&self, margin: f64) -> f64 {
        let content = self.content.unwrap_or(0.0);
        let mistaken = [
            (self.weight, 0.97),
            (self.name, 0.8),
            (content, 0.93),
            (self.vote, 0.85),
            (self.family, 0.4),
            (self.flow, 0.5),
            (self.shape, 0.3),
            (self.readers, 0.2),
        ]
        .iter()
        .map(|&(found, reliable)| 1.0 - found.clamp(0.0, 1.0) * reliable)
        .product::<f64>();
        let clear = (margin / CLEAR).clamp(0.0, 1.0);
        let mut sure = (1.0 - mistaken) * (0.55 + 0.45 * clear);
        if !self.is_strong() && self.vote < 0.5 {
            // Structure alone is never as sure as 0.9, and content that is there and differs speaks against it.
            sure = sure.min(0.88);
            if self.content == Some(0.0) {
                sure *= 0.8;
            }
        }
        if self.name < -0.5 || self.weight < -0.5 {
            sure = sure.min(0.5);
        }
        sure
    }

    /// The evidence in words, strongest first.
    pub(super) fn words(&self, distance: Option<f64>) -> Vec<String> {
        let mut words = Vec::new();
        if self.weight > 0.5 {
            words.push("weight".to_owned());
        }
        if self.name > 0.5 {
            words.push("name".to_owned());
        }
        if self.vote > 0.5 {
            words.push("other blocks".to_owned());
        }
        match (self.content, distance) {
            (Some(c), _) if c > 0.8 => words.push("content".to_owned()),
            (Some(_), Some(d)) => words.push(format!("content differs by {d:.0e}")),
            _ => {}
        }
        if self.family > 0.5 {
            words.push("type".to_owned());
        }
        if self.flow > 0.25 {
            words.push("dataflow".to_owned());
        }
        if self.shape > 0.5 {
            words.push("shape".to_owned());
        }
        if self.weight < -0.5 {
            words.push("but another weight".to_owned());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_alone_is_judged_but_not_sure() {
        let plain = Evidence { family: 1.0, readers: 1.0, shape: 1.0, flow: 1.0, ..Evidence::default() };
        let confidence = plain.confidence(3.0);
        assert!(confidence > 0.6 && confidence <= 0.88, "{confidence}");
        assert!(plain.confidence(0.0) < 0.6);
    }

    #[test]
    fn content_never_outweighs_a_contradicting_weight() {
        let alike =
            Evidence { weight: -1.0, content: Some(1.0), family: 1.0, shape: 1.0, ..Evidence::default() };
        let named = Evidence { weight: 1.0, family: 1.0, shape: 1.0, ..Evidence::default() };
        assert!(named.score() > alike.score());
        assert!(alike.confidence(9.0) < 0.6);
    }
}
