"""Whom to cite for a distilled set, by the name of its method."""

_CONVEXIFIED = (
    "Loo, Hasani, Lechner, Rus: Dataset Distillation with Convexified Implicit Gradients. ICML 2023"
)

CITATIONS = {
    "rcig": _CONVEXIFIED,
    "rig": _CONVEXIFIED,
    "cig": _CONVEXIFIED,
    "vig": _CONVEXIFIED,
    "frepo": "Zhou, Nezhadarya, Ba: Dataset Distillation using Neural Feature Regression. "
    "NeurIPS 2022",
    "dm": "Zhao, Bilen: Dataset Condensation with Distribution Matching. WACV 2023",
    "dc": "Zhao, Mopuri, Bilen: Dataset Condensation with Gradient Matching. ICLR 2021",
    "dsa": "Zhao, Bilen: Dataset Condensation with Differentiable Siamese Augmentation. ICML 2021",
    "kip": "Nguyen, Chen, Lee: Dataset Meta-Learning from Kernel Ridge-Regression. ICLR 2021",
    "rfad": "Loo, Hasani, Amini, Rus: Efficient Dataset Distillation using Random Feature "
    "Approximation. NeurIPS 2022",
    "bptt": "Feng, Vedantam, Kempe: Embarrassingly Simple Dataset Distillation. ICLR 2024",
    "mtt": "Cazenavette, Wang, Torralba, Efros, Zhu: Dataset Distillation by Matching Training "
    "Trajectories. CVPR 2022",
    "herding": "Welling: Herding Dynamical Weights to Learn. ICML 2009",
    "k-center": "Sener, Savarese: Active Learning for Convolutional Neural Networks: A Core-Set "
    "Approach. ICLR 2018",
    "el2n": "Paul, Ganguli, Dziugaite: Deep Learning on a Data Diet. NeurIPS 2021",
}
