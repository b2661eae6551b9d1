"""Groups of attributes known by construction."""

import numpy as np
import pytest

from faceattr.explain.groups import agreement, co_occurrence, directions, group, order_of

RNG = np.random.default_rng(0)
MEMBERS = np.array([0, 1, 2, 0, 1, 2, 2])
CENTRES = np.eye(3, 10) * 20
VECTORS = directions(CENTRES[MEMBERS] + RNG.normal(size=(7, 10)))


def test_directions_forget_the_margin():
    weights = RNG.normal(size=(4, 6))
    weights[3] = 0
    vectors = directions(weights)
    np.testing.assert_allclose(directions(weights * [[3], [0.5], [7], [1]]), vectors)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0])


def test_clusters_and_silhouettes():
    groups = group(VECTORS, 3)
    assert groups.group.tolist() == MEMBERS.tolist()  # numbered by their first attribute
    assert groups.silhouette.min() > 0.5
    assert max(groups.silhouettes, key=groups.silhouettes.get) == 3
    assert groups.silhouettes[3] == pytest.approx(groups.silhouette.mean()) and set(groups.silhouettes) == set(
        range(2, 7)
    )
    assert groups.group[order_of(groups)].tolist() == sorted(MEMBERS)


@pytest.mark.parametrize("count", [1, 7])
def test_counts_that_make_no_groups(count):
    with pytest.raises(ValueError, match=f"{count} groups of 7 attributes: give from 2 to 6"):
        group(VECTORS, count)


def test_co_occurrence_is_the_correlation_of_known_tags():
    tags = RNG.random((50, 3)) < 0.4
    tags = np.column_stack([tags, np.ones(50, bool)])
    expected = np.corrcoef(tags[:, :3].T.astype(float))
    together = co_occurrence(tags, np.ones_like(tags))
    np.testing.assert_allclose(together[:3, :3], expected)
    assert not together[3].any()
    known = np.ones_like(tags)
    known[20:, 1] = False
    together = co_occurrence(tags, known)
    assert together[0, 1] == pytest.approx(np.corrcoef(tags[:20, :2].T.astype(float))[0, 1])
    assert together[0, 2] == pytest.approx(expected[0, 2])


def test_agreement_of_planes_with_tags():
    together = VECTORS @ VECTORS.T
    assert agreement(VECTORS, together) == pytest.approx(1) and agreement(VECTORS, -together) == pytest.approx(-1)
    assert agreement(VECTORS, np.ones((7, 7))) == 0
