"""Attribution maps (saliency, integrated gradients, occlusion) and their similarity."""
