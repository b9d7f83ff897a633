"""Every family of models in miniature, by the name that tables and tests call it."""

import families_flow
import families_unet

FAMILIES = {
    "sd": families_unet.make_sd, "sd-v": families_unet.make_sd_v, "sdxl": families_unet.make_sdxl, "sd3": families_flow.make_sd3,
    "sd35": families_flow.make_sd35, "flux": families_flow.make_flux, "flux2-klein": families_flow.make_flux2_klein,
    "pixart": families_flow.make_pixart, "sana": families_flow.make_sana, "qwen-image": families_flow.make_qwen_image,
}  # fmt: skip
