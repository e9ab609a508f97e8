"""Criteria for tests."""

import numpy as np

import force_tf


class Given(force_tf.criteria.Criterion):
    """Scores that a test gives."""

    needs_data = False

    def __init__(self, *scores):
        self.given = [np.array(score, np.float32) for score in scores]

    def scores(self, network):
        return self.given
