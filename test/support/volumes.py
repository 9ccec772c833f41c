"""Volumes with known contents."""

import nibabel as nib
import numpy as np

AFFINE = np.array([[1.5, 0, 0, -20], [0, 0.8, 0, 5], [0, 0, 3, 7], [0, 0, 0, 1.0]])


def plane(points):
    """A linear function of world coordinates ``(3, ...)``: trilinear interpolation of it is exact."""
    return 2.0 * points[0] - 3.0 * points[1] + 0.5 * points[2] + 40.0


def world_of(affine, shape):
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def store(path, data, affine=AFFINE):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path
