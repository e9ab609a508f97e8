"""Plots of masks, of searches for masks, and of what shrinking leaves.

Every function draws into the Matplotlib axes that it is given, or into a new figure that pyplot does not know of, and
returns the axes: `plot_density(masks).figure.savefig("density.png")`. A cell of a notebook that ends with
`plot_density(masks).figure` shows it. Matplotlib is an optional dependency, imported
when a plot is drawn.
"""

from force_tf.plots.axes import COLORS
from force_tf.plots.figures import plot_channels, plot_density, plot_overlap, plot_saliency, plot_schedule

__all__ = ["COLORS", "plot_channels", "plot_density", "plot_overlap", "plot_saliency", "plot_schedule"]
