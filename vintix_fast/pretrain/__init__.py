"""How a pretrained model is made: an expert for each robot, histories that lead to it, one Vintix trained on them."""
