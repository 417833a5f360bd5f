"""A procedural retina: hidden causes, and the pictures and words that follow from them.

``causes`` draws a patient, ``fundus``, ``angiogram`` and ``oct`` render an eye at any size, and
``report`` describes it in English and Chinese. Everything is a function of (seed, patient index).

Geometry: unit coordinates of a right eye with the fovea at the origin, x to the right (nasal, where
the disc is), y downwards, and 1.0 about 23 degrees of visual angle (half a 45-degree photograph).
Left eyes are mirrored as the last step of rendering.
"""
