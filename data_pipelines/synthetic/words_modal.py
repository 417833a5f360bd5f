"""Phrases for angiograms and tomograms, in the manner of ``words``. Data only."""

from __future__ import annotations

from data_pipelines.synthetic.words import Phrases

FINDINGS: dict[str, dict[str, Phrases]] = {
    "ffa": {
        "en": {
            "microaneurysms": (
                "{n} pinpoint hyperfluorescent microaneurysms",
                "{n} microaneurysms seen as bright dots",
            ),
            "blocked": ("blocked fluorescence from haemorrhage", "blockage by haemorrhage"),
            "new_vessels_disc": (
                "leakage from new vessels on the disc (NVD)",
                "NVD, leaking new vessels of the disc",
            ),
            "new_vessels_elsewhere": (
                "leaking new vessels elsewhere (NVE)",
                "NVE, fronds of leaking new vessels",
            ),
            "nonperfusion": ("areas of capillary non-perfusion", "capillary non-perfusion"),
            "macular_oedema_1": (
                "macular leakage sparing the centre",
                "non-central macular leakage",
            ),
            "macular_oedema_2": ("central macular leakage", "macular leakage into the fovea"),
            "drusen": ("{n} hyperfluorescent drusen", "{n} staining drusen"),
            "geographic_atrophy": (
                "a window defect from geographic atrophy",
                "geographic atrophy transmitting choroidal fluorescence",
            ),
            "choroidal_neovascularisation": (
                "a lacy hyperfluorescent choroidal neovascular membrane",
                "choroidal neovascular leakage",
            ),
            "patchy_atrophy": (
                "window defects from patchy atrophy",
                "patchy atrophy with transmitted fluorescence",
            ),
            "crescent": ("staining of peripapillary atrophy", "a bright peripapillary crescent"),
            "large_cup": ("a dark enlarged optic cup", "a hypofluorescent enlarged cup"),
            "narrow_arteries": ("narrow arterioles", "attenuated arterioles"),
        },
        "zh": {
            "microaneurysms": ("{n}点状强荧光微血管瘤", "{n}微血管瘤呈点状强荧光"),
            "blocked": ("出血遮蔽荧光", "出血所致遮蔽荧光"),
            "new_vessels_disc": ("视盘新生血管渗漏", "视盘新生血管荧光素渗漏"),
            "new_vessels_elsewhere": ("视网膜新生血管渗漏", "视网膜新生血管团状渗漏"),
            "nonperfusion": ("毛细血管无灌注区", "片状毛细血管无灌注区"),
            "macular_oedema_1": ("未累及中心的黄斑渗漏", "黄斑旁中心渗漏"),
            "macular_oedema_2": ("黄斑中心凹渗漏", "累及中心的黄斑渗漏"),
            "drusen": ("{n}玻璃膜疣强荧光", "{n}玻璃膜疣着染"),
            "geographic_atrophy": ("地图样萎缩透见荧光", "地图样萎缩区窗样缺损"),
            "choroidal_neovascularisation": ("脉络膜新生血管花边状强荧光", "脉络膜新生血管渗漏"),
            "patchy_atrophy": ("斑片状萎缩透见荧光", "斑片状萎缩区窗样缺损"),
            "crescent": ("视盘旁萎缩弧着染", "视盘旁弧形强荧光"),
            "large_cup": ("视杯扩大呈弱荧光", "扩大的视杯弱荧光"),
            "narrow_arteries": ("动脉变细", "视网膜动脉普遍变细"),
        },
    },
    "oct": {
        "en": {
            "macular_oedema_1": (
                "parafoveal thickening with intraretinal cysts",
                "intraretinal cysts beside the fovea",
            ),
            "macular_oedema_2": (
                "foveal thickening with intraretinal cysts",
                "cystoid macular oedema with intraretinal cysts",
            ),
            "subretinal_fluid": ("subretinal fluid", "a pocket of subretinal fluid"),
            "hard_exudates": ("hyperreflective foci", "hyperreflective foci casting shadows"),
            "drusen": (
                "drusenoid elevations of the pigment epithelium",
                "drusen lifting the pigment epithelium",
            ),
            "geographic_atrophy": (
                "loss of the outer retina with choroidal hypertransmission",
                "atrophy of the pigment epithelium with hypertransmission",
            ),
            "choroidal_neovascularisation": (
                "a fibrovascular pigment epithelial detachment",
                "an irregular pigment epithelial detachment",
            ),
            "large_cup": (
                "thin nerve fibre and ganglion cell layers",
                "thinning of the ganglion cell complex",
            ),
            "tessellation": (
                "posterior bowing with a thin choroid",
                "a curved eye wall and a thin choroid",
            ),
        },
        "zh": {
            "macular_oedema_1": ("旁中心凹增厚伴视网膜内囊腔", "中心凹旁视网膜内囊腔"),
            "macular_oedema_2": ("中心凹增厚伴视网膜内囊腔", "黄斑囊样水肿，视网膜内囊腔"),
            "subretinal_fluid": ("视网膜下积液", "神经上皮下及视网膜下积液"),
            "hard_exudates": ("高反射点", "高反射点伴后方声影"),
            "drusen": ("玻璃膜疣样色素上皮隆起", "色素上皮下玻璃膜疣"),
            "geographic_atrophy": ("外层视网膜缺失伴脉络膜透射增强", "色素上皮萎缩伴透射增强"),
            "choroidal_neovascularisation": ("纤维血管性色素上皮脱离", "不规则色素上皮脱离"),
            "large_cup": ("神经纤维层及节细胞层变薄", "节细胞复合体变薄"),
            "tessellation": ("后巩膜弯曲，脉络膜变薄", "眼球壁后凸伴脉络膜变薄"),
        },
    },
}
UNREMARKABLE = {"ffa": {"en": ("regular filling of the retinal vessels",
                               "no leakage or filling defect"),
                        "zh": ("视网膜血管充盈正常", "未见渗漏及充盈缺损")},
                "oct": {"en": ("a normal foveal contour", "regular retinal layers and foveal pit"),
                        "zh": ("中心凹形态正常", "视网膜各层结构规则")}}  # fmt: skip
PHASES = {
    "en": {"arterial": "arterial phase", "venous": "venous phase", "late": "late phase"},
    "zh": {"arterial": "动脉期", "venous": "静脉期", "late": "晚期"},
}
SENTENCES = {
    "ffa": {
        "en": (
            "Fluorescein angiogram of the {side}, {phase}: {findings}. {diagnosis}.",
            "{side}, {phase} of the angiogram shows {findings}, consistent with {diagnosis}.",
            "{diagnosis}, {side}. The {phase} angiogram shows {findings}.",
        ),
        "zh": (
            "{side}荧光素眼底血管造影{phase}：{findings}。{diagnosis}。",
            "{diagnosis}（{side}）。造影{phase}示{findings}。",
        ),
    },
    "oct": {
        "en": (
            "OCT of the {side}: {findings}; {media}. {diagnosis}.",
            "Macular B-scans of the {side} show {findings}, consistent with {diagnosis}; {media}.",
            "{diagnosis}, {side}. OCT shows {findings}. {media}.",
        ),
        "zh": (
            "{side}黄斑OCT：{findings}；{media}。{diagnosis}。",
            "{diagnosis}（{side}）。OCT示{findings}，{media}。",
        ),
    },
}
SIGNAL = {
    "en": ("good signal", "slightly reduced signal", "reduced signal", "poor signal"),
    "zh": ("信号良好", "信号略弱", "信号减弱", "信号差"),
}
