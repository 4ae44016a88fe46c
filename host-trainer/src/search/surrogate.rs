//! Regression from what is known of candidates before their evaluation to what they turn out to be worth.

/// A linear model through the origin, fitted with a penalty on how far its weights are from what they are expected
/// to be (ridge regression; Hoerl and Kennard, 1970): a few rows move it a little, without any it is as expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    weights: Vec<f64>,
}

/// Penalty on a weight's distance from its expected value, both times the scale of its feature: the variance of
/// targets around the model as a multiple of that of the weights.
const PENALTY: f64 = 3.0;

impl Ridge {
    /// Fits a model to rows of features and what they lead to. `scale` says how far each feature is usually from
    /// zero.
    pub fn fit(rows: &[Vec<f64>], targets: &[f64], expected: &[f64], scale: &[f64]) -> Self {
        let width = scale.len();
        let mut gram = vec![vec![0.0; width]; width];
        let mut moments = vec![0.0; width];
        (0..width).for_each(|at| gram[at][at] = PENALTY);
        for (row, target) in rows.iter().zip(targets) {
            let rest = target - dot(row, expected);
            let row: Vec<f64> = row.iter().zip(scale).map(|(value, scale)| value / scale).collect();
            for (at, value) in row.iter().enumerate() {
                moments[at] += value * rest;
                gram[at].iter_mut().zip(&row).for_each(|(sum, other)| *sum += value * other);
            }
        }
        // With a penalty there is always a solution.
        let moved = solve(gram, moments).unwrap_or_else(|| vec![0.0; width]);
        let moved = moved.iter().zip(scale).map(|(moved, scale)| moved / scale);
        Self { weights: expected.iter().zip(moved).map(|(weight, moved)| weight + moved).collect() }
    }

    /// What a row of features is predicted to lead to.
    pub fn predict(&self, row: &[f64]) -> f64 {
        dot(row, &self.weights)
    }
}

/// The standard deviation of each of so many features over rows, or a tenth where it is less or there are no rows:
/// what hardly differs is no unit to measure others by.
pub fn deviations(rows: &[Vec<f64>], width: usize) -> Vec<f64> {
    let count = rows.len().max(1) as f64;
    let deviation = |at: usize| {
        let mean = rows.iter().map(|row| row[at]).sum::<f64>() / count;
        let square = rows.iter().map(|row| (row[at] - mean).powi(2)).sum::<f64>() / count;
        square.sqrt().max(0.1)
    };
    (0..width).map(deviation).collect()
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
            (0..6).map(|at| (1 + at) as f64 * wave(index, 1.3 + 0.7 * at as f64)).collect()
        };
        let truth = |row: &[f64]| 2.0 * row[0] - row[3] + 0.3 * row[5];
        let expected = [1.5, 0.0, 0.0, -0.5, 0.0, 0.0];
        let scale = [0.7, 1.4, 2.1, 2.8, 3.5, 4.2];
        let rows: Vec<Vec<f64>> = (1..200).map(row).collect();
        let targets: Vec<f64> =
            rows.iter().enumerate().map(|(i, row)| truth(row) + 0.02 * wave(i, 9.1)).collect();
        let worst = |count: usize| {
            let model = Ridge::fit(&rows[..count], &targets[..count], &expected, &scale);
            let off = (300..400).map(row).map(|row| (model.predict(&row) - truth(&row)).abs());
            off.fold(0.0, f64::max)
        };
        assert!(worst(199) < 0.1, "{}", worst(199));
        // The more is known, the closer; what is expected is where it begins.
        assert!(worst(199) < worst(10) && worst(10) < worst(0), "{} {}", worst(10), worst(0));
        let nothing = Ridge::fit(&[], &[], &expected, &scale);
        assert_eq!(nothing, Ridge { weights: expected.to_vec() });
        // A feature that never differs from zero tells nothing of its weight.
        let flat =
            Ridge::fit(&[vec![1.0, 0.0], vec![2.0, 0.0]], &[3.0, 5.0], &[0.0, 0.7], &[1.0; 2]);
        assert!(flat.weights[0] > 1.0 && flat.weights[1] == 0.7, "{flat:?}");
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
