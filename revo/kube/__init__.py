"""A mesh as Kubernetes wants it: manifests made from the mesh file that ran on the laptop."""
