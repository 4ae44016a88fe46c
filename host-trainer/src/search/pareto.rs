//! Sets of points that no other point beats: dominance, sorting, hypervolume. Every objective is minimised.

/// Whether `a` is nowhere worse than `b` and somewhere better.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    let pairs = || a.iter().zip(b);
    pairs().all(|(a, b)| a <= b) && pairs().any(|(a, b)| a < b)
}

/// Indices of the points that no other one dominates, in their order. Of equal points all stay.
pub fn front(points: &[Vec<f64>]) -> Vec<usize> {
    let beaten = |index: &usize| points.iter().any(|other| dominates(other, &points[*index]));
    (0..points.len()).filter(|index| !beaten(index)).collect()
}

/// The rank of every point: 0 on the front, 1 on the front of the others, and so on (Deb et al., "A fast
/// and elitist multiobjective genetic algorithm: NSGA-II", 2002).
pub fn ranks(points: &[Vec<f64>]) -> Vec<usize> {
    let mut beaten_by: Vec<usize> = points
        .iter()
        .map(|point| points.iter().filter(|other| dominates(other, point)).count())
        .collect();
    let mut ranks = vec![0; points.len()];
    let mut current: Vec<usize> =
        (0..points.len()).filter(|&index| beaten_by[index] == 0).collect();
    let mut rank = 0;
    while !current.is_empty() {
        let mut next = Vec::new();
        for &index in &current {
            ranks[index] = rank;
            for other in 0..points.len() {
                if dominates(&points[index], &points[other]) {
                    beaten_by[other] -= 1;
                    if beaten_by[other] == 0 {
                        next.push(other);
                    }
                }
            }
        }
        current = next;
        rank += 1;
    }
    ranks
}

/// How much room each of these points has among them: the sum over the objectives of the distance of its
/// neighbours, in shares of the range; infinite at the ends (Deb et al., 2002).
pub fn crowding(points: &[Vec<f64>], members: &[usize]) -> Vec<f64> {
    let mut room = vec![0.0; members.len()];
    let objectives = points.first().map_or(0, Vec::len);
    let column = |objective: usize| -> Vec<f64> {
        members.iter().map(|&member| points[member][objective]).collect()
    };
    for column in (0..objectives).map(column) {
        let value = |position: usize| column[position];
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by(|&a, &b| value(a).total_cmp(&value(b)));
        let (Some(&first), Some(&last)) = (order.first(), order.last()) else { continue };
        let range = value(last) - value(first);
        (room[first], room[last]) = (f64::INFINITY, f64::INFINITY);
        for around in order.windows(3) {
            if range > 0.0 {
                room[around[1]] += (value(around[2]) - value(around[0])) / range;
            }
        }
    }
    room
}

/// Volume of what the points dominate, up to the reference point, which bounds every objective from above
/// (Zitzler and Thiele, 1998). Points beyond the reference count for nothing. Exact, by slicing along the
/// last objective; meant for a few hundred points with two to four objectives.
pub fn hypervolume(points: &[Vec<f64>], reference: &[f64]) -> f64 {
    let inside =
        |point: &&Vec<f64>| point.iter().zip(reference).all(|(value, bound)| value < bound);
    let inside: Vec<&[f64]> = points.iter().filter(inside).map(Vec::as_slice).collect();
    slices(inside, reference)
}

fn slices(mut points: Vec<&[f64]>, reference: &[f64]) -> f64 {
    let Some(last) = reference.len().checked_sub(1) else { return 0.0 };
    if last == 0 {
        let best = points.iter().map(|point| point[0]).fold(reference[0], f64::min);
        return reference[0] - best;
    }
    points.sort_by(|a, b| a[last].total_cmp(&b[last]));
    let mut volume = 0.0;
    for index in 0..points.len() {
        let end = points.get(index + 1).map_or(reference[last], |next| next[last]);
        let height = end - points[index][last];
        if height > 0.0 {
            let below = points[..=index].iter().map(|point| &point[..last]).collect();
            volume += height * slices(below, &reference[..last]);
        }
    }
    volume
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn points() -> impl Strategy<Value = Vec<Vec<f64>>> {
        let point = prop::collection::vec((0_u8..12).prop_map(f64::from), 3);
        prop::collection::vec(point, 1..12)
    }

    proptest! {
        #[test]
        fn ranks_peel_fronts(points in points()) {
            let ranks = ranks(&points);
            let mut left: Vec<usize> = (0..points.len()).collect();
            for rank in 0.. {
                if left.is_empty() {
                    break;
                }
                let rest: Vec<Vec<f64>> = left.iter().map(|&index| points[index].clone()).collect();
                let peeled: Vec<usize> = front(&rest).into_iter().map(|at| left[at]).collect();
                prop_assert!(peeled.iter().all(|&index| ranks[index] == rank));
                left.retain(|index| !peeled.contains(index));
            }
        }

        /// Integer points: the volume is the number of unit cubes that some point dominates.
        #[test]
        fn hypervolume_counts_cubes(points in points()) {
            let covered = (0..12 * 12 * 12).filter(|cube| {
                let corner = [cube % 12, cube / 12 % 12, cube / 144].map(f64::from);
                points.iter().any(|point| point.iter().zip(corner).all(|(p, c)| *p <= c))
            });
            prop_assert_eq!(hypervolume(&points, &[12.0; 3]), covered.count() as f64);
        }
    }

    #[test]
    fn crowding_is_the_room_between_neighbours() {
        let points = [[0.0, 4.0], [1.0, 2.0], [4.0, 0.0]].map(|point| point.to_vec());
        assert_eq!(crowding(&points, &[0, 1, 2]), [f64::INFINITY, 2.0, f64::INFINITY]);
    }
}
