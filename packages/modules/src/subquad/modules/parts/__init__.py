"""The small layers that blocks and networks are assembled from."""
