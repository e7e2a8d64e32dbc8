//! The lines in which two texts differ.

/// The differences as people read them: `@@ -LINE +LINE @@`, then lines with `-` and `+`. Empty where the texts are the same.
pub(crate) fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let start = old.iter().zip(&new).take_while(|(one, other)| one == other).count();
    let end = old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(one, other)| one == other).count();
    let (left, right) = (&old[start..old.len() - end], &new[start..new.len() - end]);
    let kept = common(left, right);
    let (mut i, mut j) = (0, 0);
    let mut text = String::new();
    for (to_i, to_j) in kept.into_iter().chain([(left.len(), right.len())]) {
        if i < to_i || j < to_j {
            text += &format!("@@ -{} +{} @@\n", start + i + 1, start + j + 1);
            left[i..to_i].iter().for_each(|line| text += &format!("-{line}\n"));
            right[j..to_j].iter().for_each(|line| text += &format!("+{line}\n"));
        }
        (i, j) = (to_i + 1, to_j + 1);
    }
    text
}

/// The longest common subsequence as pairs of places; none where looking for it would take too long.
fn common(left: &[&str], right: &[&str]) -> Vec<(usize, usize)> {
    const CELLS: usize = 4_000_000;
    if left.len() * right.len() > CELLS {
        return Vec::new();
    }
    let width = right.len() + 1;
    let mut longest = vec![0u32; (left.len() + 1) * width];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            longest[i * width + j] = if left[i] == right[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < left.len() && j < right.len() {
        if left[i] == right[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn changed_lines_stand_with_their_places() {
        assert_eq!(diff("a\nb\nc\nd", "a\nx\nc\ne\nd"), "@@ -2 +2 @@\n-b\n+x\n@@ -4 +4 @@\n+e\n");
        assert_eq!(diff("same\n", "same\n"), "");
        assert_eq!(diff("", "new"), "@@ -1 +1 @@\n+new\n");
        assert_eq!(diff("gone", ""), "@@ -1 +1 @@\n-gone\n");
    }
}
