//! Regression from what is known of candidates before their evaluation to what they turn out to be worth.

/// A linear model of standardised features, fitted with a penalty on its weights (ridge regression; Hoerl and
/// Kennard, 1970). The penalty is the one with the least error when each row is predicted by all others.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    features: Vec<Standard>,
    weights: Vec<f64>,
    mean: f64,
}

/// Mean and standard deviation of a feature.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Standard {
    mean: f64,
    deviation: f64,
}

/// Penalties to choose from.
const PENALTIES: [f64; 7] = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

impl Ridge {
    /// Fits a model to rows of features and what they lead to. `None` without rows.
    pub fn fit(rows: &[Vec<f64>], targets: &[f64]) -> Option<Self> {
        let count = rows.len() as f64;
        let width = rows.first()?.len();
        let features: Vec<Standard> = (0..width)
            .map(|at| {
                let mean = rows.iter().map(|row| row[at]).sum::<f64>() / count;
                let square = rows.iter().map(|row| (row[at] - mean).powi(2)).sum::<f64>() / count;
                Standard { mean, deviation: square.sqrt().max(1e-9) }
            })
            .collect();
        let rows: Vec<Vec<f64>> = rows.iter().map(|row| standardised(row, &features)).collect();
        let mean = targets.iter().sum::<f64>() / count;
        let centred: Vec<f64> = targets.iter().map(|target| target - mean).collect();
        let mut gram = vec![vec![0.0; width]; width];
        let mut moments = vec![0.0; width];
        for (row, target) in rows.iter().zip(&centred) {
            for (at, value) in row.iter().enumerate() {
                moments[at] += value * target;
                gram[at].iter_mut().zip(row).for_each(|(sum, other)| *sum += value * other);
            }
        }
        let best = PENALTIES
            .iter()
            .filter_map(|&penalty| {
                let mut gram = gram.clone();
                (0..width).for_each(|at| gram[at][at] += penalty);
                let weights = solve(gram.clone(), moments.clone())?;
                // The error of a row that is left out follows from its leverage (Allen's PRESS, 1974).
                let mut error = 0.0;
                for (row, target) in rows.iter().zip(&centred) {
                    let own = dot(row, &solve(gram.clone(), row.clone())?) + 1.0 / count;
                    error += ((target - dot(row, &weights)) / (1.0 - own).max(1e-6)).powi(2);
                }
                Some((error, weights))
            })
            .min_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, weights)| Self { features, weights, mean })
    }

    /// A model that takes no notice of features: everything leads to the mean of the targets, or to zero.
    pub fn constant(targets: &[f64]) -> Self {
        let mean = targets.iter().sum::<f64>() / targets.len().max(1) as f64;
        Self { features: Vec::new(), weights: Vec::new(), mean }
    }

    /// What a row of features is predicted to lead to.
    pub fn predict(&self, row: &[f64]) -> f64 {
        self.mean + dot(&standardised(row, &self.features), &self.weights)
    }
}

fn standardised(row: &[f64], features: &[Standard]) -> Vec<f64> {
    let pairs = row.iter().zip(features);
    pairs.map(|(value, Standard { mean, deviation })| (value - mean) / deviation).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves a system of linear equations with a positive definite matrix by elimination.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let size = right.len();
    for pivot in 0..size {
        if matrix[pivot][pivot] < 1e-12 {
            return None;
        }
        let (above, below) = matrix.split_at_mut(pivot + 1);
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[pivot] / above[pivot][pivot];
            let pairs = row.iter_mut().zip(&above[pivot]);
            pairs.for_each(|(value, other)| *value -= factor * other);
            right[pivot + 1 + offset] -= factor * right[pivot];
        }
    }
    for at in (0..size).rev() {
        let known: f64 = (at + 1..size).map(|other| matrix[at][other] * right[other]).sum();
        right[at] = (right[at] - known) / matrix[at][at];
    }
    Some(right)
}

/// Kendall's rank correlation of pairs (tau-b, 1945): 1 when both orders agree, -1 when they are opposite.
/// `None` where one of them has no order.
pub fn kendall_tau(pairs: &[(f64, f64)]) -> Option<f64> {
    let (mut agree, mut differ, mut first, mut second) = (0.0, 0.0, 0.0, 0.0);
    for (index, a) in pairs.iter().enumerate() {
        for b in &pairs[index + 1..] {
            let sign = |x: f64, y: f64| x.partial_cmp(&y).map_or(0, |order| order as i32);
            match (sign(a.0, b.0), sign(a.1, b.1)) {
                (0, 0) => {}
                (0, _) => first += 1.0,
                (_, 0) => second += 1.0,
                (x, y) if x == y => agree += 1.0,
                _ => differ += 1.0,
            }
        }
    }
    let both: f64 = agree + differ;
    let scale = ((both + first) * (both + second)).sqrt();
    (scale > 0.0).then(|| (agree - differ) / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_among_noise() {
        let wave = |index: usize, step: f64| (index as f64 * step).sin();
        let row = |index: usize| -> Vec<f64> {
            (0..6).map(|at| wave(index, 1.3 + 0.7 * at as f64)).collect()
        };
        let truth = |row: &[f64]| 3.0 + 2.0 * row[0] - row[3];
        let rows: Vec<Vec<f64>> = (1..25).map(row).collect();
        let targets: Vec<f64> =
            rows.iter().enumerate().map(|(i, row)| truth(row) + 0.02 * wave(i, 9.1)).collect();
        let model = Ridge::fit(&rows, &targets).unwrap();
        for index in 30..60 {
            let row = row(index);
            assert!((model.predict(&row) - truth(&row)).abs() < 0.1, "{row:?}");
        }
        assert_eq!(Ridge::fit(&[], &[]), None);
        // Features that never change carry no weight.
        let flat = Ridge::fit(&[vec![1.0], vec![1.0]], &[1.0, 3.0]).unwrap();
        assert_eq!(flat.predict(&[1.0]), 2.0);
    }

    #[test]
    fn kendall_counts_pairs() {
        let tau = |second: [f64; 4]| {
            let pairs: Vec<(f64, f64)> = (1..5).map(f64::from).zip(second).collect();
            kendall_tau(&pairs)
        };
        assert_eq!(tau([1.0, 2.0, 3.0, 4.0]), Some(1.0));
        assert_eq!(tau([4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        // Five pairs agree, one does not.
        assert_eq!(tau([1.0, 3.0, 2.0, 4.0]), Some(4.0 / 6.0));
        // Two tied: 5 / sqrt(6 * 5).
        assert_eq!(tau([1.0, 2.0, 2.0, 4.0]), Some(5.0 / 30.0_f64.sqrt()));
        assert_eq!(tau([1.0; 4]), None);
    }
}
