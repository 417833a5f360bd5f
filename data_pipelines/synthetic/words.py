"""Phrases of the reports: finding -> paraphrases, in English and Chinese. Data only.

Every phrase is a noun group, so that any of them can follow "with", "shows" or a colon.
``{n}`` is a quantity, ``{ratio}`` the cup-to-disc ratio, ``{where}`` a place.
"""

from __future__ import annotations

Phrases = dict[str, tuple[str, ...]]

QUANTITIES = {"en": {"few": ("a few", "scattered", "occasional"),
                     "several": ("several", "multiple"), "many": ("numerous", "many", "extensive")},
              "zh": {"few": ("少许", "个别"), "several": ("数处", "散在"),
                     "many": ("大量", "广泛")}}  # fmt: skip
SIDES = {
    "en": {"OD": ("right eye", "right eye (OD)"), "OS": ("left eye", "left eye (OS)")},
    "zh": {"OD": ("右眼", "右侧眼"), "OS": ("左眼", "左侧眼")},
}
PLACES = {
    "en": {"superotemporal": "superotemporal", "inferotemporal": "inferotemporal"},
    "zh": {"superotemporal": "颞上方", "inferotemporal": "颞下方"},
}
SEXES = {
    "en": {"female": ("woman", "female patient"), "male": ("man", "male patient")},
    "zh": {"female": ("女性", "女性患者"), "male": ("男性", "男性患者")},
}

FINDINGS: dict[str, Phrases] = {
    "en": {
        "microaneurysms": ("{n} microaneurysms", "{n} retinal microaneurysms"),
        "haemorrhages": ("{n} dot and blot haemorrhages", "{n} intraretinal blot haemorrhages"),
        "flame_haemorrhages": ("{n} flame haemorrhages", "{n} flame-shaped haemorrhages"),
        "hard_exudates": ("{n} hard exudates", "{n} yellow hard exudates"),
        "cotton_wool_spots": ("{n} cotton wool spots", "{n} fluffy cotton wool spots"),
        "venous_beading": ("venous beading", "marked venous beading"),
        "new_vessels_disc": (
            "new vessels on the disc (NVD)",
            "NVD, neovascularisation of the disc",
        ),
        "new_vessels_elsewhere": (
            "new vessels elsewhere (NVE)",
            "NVE, neovascularisation along the arcades",
        ),
        "preretinal_haemorrhage": (
            "a boat-shaped preretinal haemorrhage",
            "preretinal haemorrhage with a fluid level",
        ),
        "macular_oedema_1": (
            "macular oedema sparing the centre",
            "non-centre-involving macular oedema",
        ),
        "macular_oedema_2": (
            "centre-involving macular oedema",
            "macular oedema involving the fovea",
        ),
        "drusen": (
            "{n} drusen",
            "{n} macular drusen",
            "{n} yellowish drusen at the posterior pole",
        ),
        "pigment": ("macular pigment clumping", "pigmentary changes with pigment clumping"),
        "geographic_atrophy": (
            "geographic atrophy",
            "a sharply bordered area of geographic atrophy",
        ),
        "choroidal_neovascularisation": (
            "a choroidal neovascular membrane",
            "greyish choroidal neovascular tissue",
        ),
        "subretinal_haemorrhage": ("subretinal haemorrhage", "dark subretinal haemorrhage"),
        "large_cup": ("an enlarged optic cup", "a vertically enlarged optic cup"),
        "thin_rim": ("thinning of the neuroretinal rim", "a thin neuroretinal rim"),
        "nerve_fibre_defect": (
            "a {where} nerve fibre layer defect",
            "a wedge-shaped {where} nerve fibre layer defect",
        ),
        "disc_haemorrhage": ("a splinter disc haemorrhage", "disc haemorrhage at the margin"),
        "crescent": ("peripapillary atrophy", "a temporal crescent of peripapillary atrophy"),
        "tilted_disc": ("a tilted disc", "tilted disc insertion"),
        "tessellation": (
            "a tessellated fundus",
            "a tessellated fundus with visible choroidal vessels",
        ),
        "patchy_atrophy": ("patchy chorioretinal atrophy", "areas of patchy chorioretinal atrophy"),
        "narrow_arteries": ("arteriolar narrowing", "generalised arteriolar narrowing"),
    },
    "zh": {
        "microaneurysms": ("{n}微血管瘤", "{n}视网膜微血管瘤"),
        "haemorrhages": ("{n}点片状出血", "{n}视网膜内点片状出血"),
        "flame_haemorrhages": ("{n}火焰状出血", "{n}浅层火焰状出血"),
        "hard_exudates": ("{n}硬性渗出", "{n}黄白色硬性渗出"),
        "cotton_wool_spots": ("{n}棉绒斑", "{n}白色棉绒斑"),
        "venous_beading": ("静脉串珠样改变", "视网膜静脉串珠样改变"),
        "new_vessels_disc": ("视盘新生血管", "视盘新生血管形成"),
        "new_vessels_elsewhere": ("视网膜新生血管", "血管弓旁视网膜新生血管"),
        "preretinal_haemorrhage": ("舟状视网膜前出血", "视网膜前出血并见液平"),
        "macular_oedema_1": ("未累及中心的黄斑水肿", "非中心受累型黄斑水肿"),
        "macular_oedema_2": ("累及中心凹的黄斑水肿", "中心受累型黄斑水肿"),
        "drusen": ("{n}玻璃膜疣", "黄斑区{n}玻璃膜疣", "后极部{n}黄白色玻璃膜疣"),
        "pigment": ("黄斑区色素紊乱", "黄斑色素紊乱伴色素团块"),
        "geographic_atrophy": ("地图样萎缩", "边界清楚的地图样萎缩"),
        "choroidal_neovascularisation": ("脉络膜新生血管膜", "灰白色脉络膜新生血管"),
        "subretinal_haemorrhage": ("视网膜下出血", "暗红色视网膜下出血"),
        "large_cup": ("视杯扩大", "视杯垂直扩大"),
        "thin_rim": ("盘沿变窄", "视盘盘沿变窄"),
        "nerve_fibre_defect": ("{where}神经纤维层缺损", "{where}楔形神经纤维层缺损"),
        "disc_haemorrhage": ("视盘线状出血", "盘缘视盘线状出血"),
        "crescent": ("视盘旁萎缩弧", "颞侧视盘旁萎缩弧"),
        "tilted_disc": ("视盘倾斜", "视盘倾斜状"),
        "tessellation": ("豹纹状眼底", "豹纹状眼底，脉络膜血管透见"),
        "patchy_atrophy": ("斑片状脉络膜视网膜萎缩", "后极部斑片状脉络膜视网膜萎缩"),
        "narrow_arteries": ("视网膜动脉变细", "动脉普遍变细"),
    },
}

UNREMARKABLE = {"en": ("a healthy macula and vessels of normal calibre",
                       "an unremarkable posterior pole", "a flat retina with a normal macula"),
                "zh": ("黄斑及视网膜血管正常", "后极部未见异常",
                       "视网膜平伏，黄斑形态正常")}  # fmt: skip
CUPS = {
    "en": ("cup-to-disc ratio {ratio}", "vertical C/D ratio {ratio}", "C/D about {ratio}"),
    "zh": ("杯盘比{ratio}", "垂直杯盘比约{ratio}", "C/D约{ratio}"),
}
MEDIA = {"en": (("clear media", "good image quality", "media clear"),
                ("mild lens opacity", "slightly hazy view from mild lens opacity"),
                ("moderate lens opacity blurring the details",
                 "hazy view from moderate lens opacity"),
                ("dense lens opacity obscuring the fundus",
                 "poor view through a dense lens opacity")),
         "zh": (("屈光间质清", "图像质量良好", "屈光间质透明"),
                ("轻度晶状体混浊", "轻度晶状体混浊，眼底略模糊"),
                ("中度晶状体混浊，眼底模糊", "中度晶状体混浊致图像模糊"),
                ("重度晶状体混浊，眼底窥不清", "重度晶状体混浊致眼底难以窥见"))}  # fmt: skip

DIAGNOSES: dict[str, Phrases] = {
    "en": {
        "normal": ("normal fundus", "no abnormality", "healthy retina"),
        "mild diabetic retinopathy": (
            "mild non-proliferative diabetic retinopathy",
            "mild NPDR",
            "mild diabetic retinopathy",
        ),
        "moderate diabetic retinopathy": (
            "moderate non-proliferative diabetic retinopathy",
            "moderate NPDR",
            "moderate diabetic retinopathy",
        ),
        "severe diabetic retinopathy": (
            "severe non-proliferative diabetic retinopathy",
            "severe NPDR",
            "severe diabetic retinopathy",
        ),
        "proliferative diabetic retinopathy": ("proliferative diabetic retinopathy", "PDR"),
        "glaucoma": ("glaucoma", "glaucomatous optic neuropathy", "glaucomatous cupping"),
        "early": ("early age-related macular degeneration", "early dry AMD", "early AMD"),
        "intermediate": (
            "intermediate age-related macular degeneration",
            "intermediate dry AMD",
            "intermediate AMD",
        ),
        "atrophic": ("late atrophic age-related macular degeneration", "advanced dry AMD"),
        "neovascular": ("neovascular age-related macular degeneration", "wet AMD"),
        "pathologic myopia": ("pathologic myopia", "pathological myopia", "high myopic fundus"),
        "cataract": ("cataract", "cataract limiting the view"),
        "hypertensive retinopathy": ("hypertensive retinopathy",),
    },
    "zh": {
        "normal": ("眼底正常", "未见明显异常", "正常眼底"),
        "mild diabetic retinopathy": ("轻度非增殖期糖尿病视网膜病变", "轻度糖尿病视网膜病变"),
        "moderate diabetic retinopathy": ("中度非增殖期糖尿病视网膜病变", "中度糖尿病视网膜病变"),
        "severe diabetic retinopathy": ("重度非增殖期糖尿病视网膜病变", "重度糖尿病视网膜病变"),
        "proliferative diabetic retinopathy": ("增殖期糖尿病视网膜病变", "增殖性糖尿病视网膜病变"),
        "glaucoma": ("青光眼", "青光眼性视神经病变"),
        "early": ("早期年龄相关性黄斑变性", "早期干性老年性黄斑变性"),
        "intermediate": ("中期年龄相关性黄斑变性", "中期干性老年性黄斑变性"),
        "atrophic": ("晚期萎缩型年龄相关性黄斑变性", "晚期干性老年性黄斑变性"),
        "neovascular": ("新生血管性年龄相关性黄斑变性", "湿性老年性黄斑变性"),
        "pathologic myopia": ("病理性近视", "病理性近视眼底改变"),
        "cataract": ("白内障", "白内障，影响眼底观察"),
        "hypertensive retinopathy": ("高血压性视网膜病变",),
    },
}

# Ways to put together: side, diagnosis, findings, cup, media.
SENTENCES = {
    "en": (
        "{side}: {diagnosis} with {findings}; {cup}; {media}.",
        "Fundus photograph of the {side} shows {findings}, consistent with {diagnosis}. "
        "{cup}, {media}.",
        "{diagnosis} in the {side}. The retina shows {findings}. {cup}. {media}.",
        "{side}, {media}. Findings: {findings}; {cup}. Impression: {diagnosis}.",
    ),
    "zh": (
        "{side}：{diagnosis}，可见{findings}；{cup}；{media}。",
        "{side}彩色眼底照相示{findings}，符合{diagnosis}。{cup}，{media}。",
        "{side}{media}，{cup}，见{findings}。印象：{diagnosis}。",
        "{diagnosis}（{side}）。眼底见{findings}。{cup}。{media}。",
    ),
}
PATIENTS = {
    "en": ("{age}-year-old {sex}.", "A {age}-year-old {sex}.", "{sex}, aged {age}."),
    "zh": ("{age}岁{sex}。", "{sex}，{age}岁。"),
}
